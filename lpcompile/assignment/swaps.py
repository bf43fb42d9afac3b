"""Better selections by changing one item at a time."""

from collections.abc import Callable

import numpy as np

from lpcompile.assignment.choice_table import ChoiceTable, Picks
from lpcompile.assignment.pareto import F64

_MOST = 2000

Judge = Callable[[F64, F64], F64]
"""Losses (N,) and costs (N, D) of N selections -> what each is worth, (N,); smaller is better, inf is forbidden."""


def descend(table: ChoiceTable, picks: Picks, judge: Judge) -> Picks:
    """Take the best change of a single item until none helps.

    Items with members and their members' parents stay as they are; the members themselves may change.
    """
    brings = np.zeros(len(table.loss), bool)
    brings[table.parent[table.parent >= 0]] = True
    now = np.full(len(table.parent), -1)
    now[table.item[picks.choices]] = picks.choices
    mine = now[table.item]
    candidates = np.flatnonzero((mine >= 0) & ~brings & ~brings[mine])
    loss, cost = picks.loss, picks.cost.copy()
    value = judge(np.array([loss]), cost[None])[0]
    for _ in range(_MOST):
        old = now[table.item[candidates]]
        losses = loss + (table.loss[candidates] - table.loss[old])
        costs = cost + (table.cost[candidates] - table.cost[old])
        values = judge(losses, costs)
        at = int(np.argmin(values)) if len(values) else -1
        if at < 0 or not values[at] < value:
            break
        loss, cost, value = float(losses[at]), costs[at], values[at]
        now[table.item[candidates[at]]] = candidates[at]
    chosen = np.sort(now[now >= 0])
    return Picks(chosen, float(table.loss[chosen].sum()), table.cost[chosen].sum(0))
