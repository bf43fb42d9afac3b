"""What each budget buys: the least loss against one cost.

The corners of the lower convex hull come from pricing the cost: between two known corners the price that makes them
equal either yields a selection below their line, a new corner, or proves that there is none (Cohon 1978). Selections
between the corners are found by the exact knapsack at asked budgets.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.assignment.choice_table import ChoiceTable, Picks, Row, read
from lpcompile.assignment.knapsack import NODE_LIMIT, solve
from lpcompile.assignment.problem import Item, check_items, sums

_LINE = 1e-12  # relative distance from a line that counts as on it


@dataclass(frozen=True, slots=True)
class Point:
    """A selection on the trade-off curve.

    Attributes:
        cost: sum of the cost that is traded.
        loss: sum of the losses.
        counts: how many items took each label, members included.
        corner: on the convex hull; False for a selection at an asked budget.
    """

    cost: float
    loss: float
    counts: Mapping[str, int]
    corner: bool = True


def curve(
    items: Sequence[Item],
    name: str,
    *,
    budgets: Sequence[float] = (),
    most: int = 64,
    node_limit: int = NODE_LIMIT,
) -> tuple[Point, ...]:
    """The trade-off between loss and a cost, by ascending cost and strictly falling loss.

    Args:
        items: the problem.
        name: the cost.
        budgets: where exact selections are wanted besides the corners.
        most: corners at most; those that bend the curve most come first.
        node_limit: of the exact search at a budget.

    Raises:
        BudgetError: a budget lies below what can be reached.
        PassError: an item has no choice, or a loss or cost is negative or not finite.
    """
    check_items(items)
    points = corners(items, name, most=most)
    for budget in budgets:
        found = solve(items, {name: budget}, node_limit=node_limit)
        counts = Counter(found.picked.values())
        points.append(Point(found.costs.get(name, 0.0), found.loss, counts, corner=False))
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.loss, not p.corner)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return tuple(kept)


def corners(items: Sequence[Item], name: str, *, most: int = 64) -> list[Point]:
    """Corners of the lower convex hull of loss over cost, by ascending cost."""
    if not items:
        return []
    table, rows = read(sorted(items, key=lambda i: i.name), (name,))
    table = table.undominated()
    left, right = _cheapest(table), _best(table)
    known = {_where(left): left, _where(right): right}
    waiting = [_Span.of(left, right, 0)]
    while waiting and len(known) < most:
        span = heapq.heappop(waiting)
        drop, rise = span.left.loss - span.right.loss, float(span.right.cost[0] - span.left.cost[0])
        if drop <= 0 or rise <= 0:
            continue
        price = drop / rise
        picks, least = table.best(table.loss + price * table.cost[:, 0])
        line = span.left.loss + price * float(span.left.cost[0])
        if line - least <= _LINE * line or _where(picks) in known:
            continue
        known[_where(picks)] = picks
        heapq.heappush(waiting, _Span.of(span.left, picks, 2 * len(known)))
        heapq.heappush(waiting, _Span.of(picks, span.right, 2 * len(known) + 1))
    found = [_point(picks, table, rows, name) for _, picks in sorted(known.items())]
    return [p for i, p in enumerate(found) if i == 0 or p.loss < found[i - 1].loss]


@dataclass(frozen=True, slots=True, order=True)
class _Span:
    """Two neighbouring corners; those with the largest triangle below their line are looked at first."""

    area: float
    number: int
    left: Picks
    right: Picks

    @staticmethod
    def of(left: Picks, right: Picks, number: int) -> "_Span":
        return _Span(-(left.loss - right.loss) * float(right.cost[0] - left.cost[0]), number, left, right)


def _where(picks: Picks) -> tuple[float, float]:
    return float(picks.cost[0]), picks.loss


def _cheapest(table: ChoiceTable) -> Picks:
    """Of the selections that cost least the one that loses least."""
    return _first(table, table.cost[:, 0], table.loss)


def _best(table: ChoiceTable) -> Picks:
    """Of the selections that lose least the one that costs least."""
    return _first(table, table.loss, table.cost[:, 0])


def _first(table: ChoiceTable, main: np.ndarray, then: np.ndarray) -> Picks:
    kept = table.kept(table.regrets(main) <= 0.0)
    assert kept is not None
    rows = np.isin(table.origin, kept.origin)
    inside = then.copy()
    inside[~rows] = math.inf
    return table.best(inside)[0]


def _point(picks: Picks, table: ChoiceTable, rows: Sequence[Row], name: str) -> Point:
    choices = [rows[r].choice for r in table.origin[picks.choices].tolist()]
    loss, costs = sums(choices)
    return Point(costs.get(name, 0.0), loss, Counter(c.label for c in choices))
