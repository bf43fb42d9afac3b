"""The exact multiple-choice knapsack, for one bound or several at once. [architecture 6].

Dominated choices go first; the relaxation with priced bounds gives a lower bound and selections close to it; choices
whose regret at those prices exceeds the gap are gone; the list search decides among the rest. Its width grows until
nothing had to be dropped.  [Kellerer, Pferschy, Pisinger 2004, chapters 11 and 9]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from lpcompile.assignment.blocks import flatten
from lpcompile.assignment.choice_table import ChoiceTable, Picks, read
from lpcompile.assignment.infeasible import check_bounds, combined_bounds_missed, one_bound_missed
from lpcompile.assignment.list_search import search
from lpcompile.assignment.pareto import F64, ROUNDING, within
from lpcompile.assignment.problem import Item, Solution, check_items, every_item, sums
from lpcompile.assignment.relaxation import Relaxation, relax
from lpcompile.assignment.swaps import descend

NODE_LIMIT = 3_000_000
_SUMMING = 1e-13  # relative rounding of a sum of costs
_WIDTH, _WIDER = 256, 8  # of the first list, and by how much the next is wider
_ERROR_NODES = 100_000  # of each search that an error message needs
_DEAREST, _HALVINGS = 1e6, 24  # of the prices, when looking for a first selection


def solve(
    items: Sequence[Item],
    bounds: Mapping[str, float],
    *,
    tolerance: float = 0.0,
    node_limit: int = NODE_LIMIT,
) -> Solution:
    """The selection of least loss within the bounds.

    Args:
        items: their names differ within any selection; losses and costs are finite and at least 0.
        bounds: the most a sum of costs may be, by name, up to a relative rounding of 2e-13. A choice that does not
            name a bounded cost has none of it.
        tolerance: relative loss above the least that is accepted.
        node_limit: how many partial selections are made before the search gives up; about two million a second.

    Returns:
        The selection. `lower_bound` equals `loss` when it is the least (up to a relative 1e-12 of what it is above the
        sum of least losses); otherwise there is a note. Of choices of one item with equal loss the cheaper is taken,
        then the first. Neither loss nor selection depends on the order of the items.

    Raises:
        BudgetError: no selection keeps a bound, or all of them; `nearest` holds what can be reached.
        PassError: an item has no choice, or a loss or cost is negative or not finite.
    """
    check_items(items)
    check_bounds(items, bounds)
    if not items:
        return Solution({}, 0.0, {}, 0.0)
    knapsack = _Knapsack(items, bounds, tolerance, node_limit)
    knapsack.check_each()
    found = knapsack.solve()
    if found is None:
        proven = knapsack.lower == math.inf
        raise combined_bounds_missed(items, knapsack.bounds, _any_selection, proven=proven)
    return found


def _any_selection(items: Sequence[Item], bounds: Mapping[str, float]) -> Solution | None:
    return _Knapsack(items, bounds, 1.0, _ERROR_NODES).solve()


class _Knapsack:
    """Losses are counted above the first table's base, costs above what the present table takes out of them."""

    def __init__(
        self, items: Sequence[Item], bounds: Mapping[str, float], tolerance: float, node_limit: int
    ) -> None:
        self.items = items
        self.bounds = {k: v for k, v in bounds.items() if v < math.inf}
        self.tolerance, self.node_limit = tolerance, node_limit
        table, self.rows = read(sorted(items, key=lambda i: i.name), tuple(self.bounds))
        asked = np.array(list(self.bounds.values()), np.float64)
        self.base_loss, self.least_costs = table.base_loss, table.base_cost
        self.table = replace(table, base_loss=0.0, base_cost=np.zeros(len(asked)))
        self.slack = _SUMMING * asked
        self.room = asked - table.base_cost + self.slack
        self.best, self.picked = np.inf, np.empty(0, np.int64)  # the loss; rows of the first table
        self.lower = 0.0
        self.nodes = 0

    def check_each(self) -> None:
        """Raise for a bound that cannot even be kept alone."""
        for k, name in enumerate(self.bounds):
            if self.room[k] < 0:
                raise one_bound_missed(name, self.bounds[name], float(self.least_costs[k]))

    def solve(self) -> Solution | None:
        """None without a selection; then `lower` is infinite when it is proven that there is none."""
        if not self.presolve():
            self.lower = np.inf
            return None
        relaxed = relax(self.table, self.left)
        self.lower = np.inf if relaxed.excess > 0 else relaxed.lower_bound
        if self.lower == np.inf:
            return None
        self.start(relaxed)
        width = _WIDTH
        while self.open and (again := self.reduced(relaxed)):
            relaxed = again
            self.look(relaxed, width)
            if self.nodes >= self.node_limit:
                break
            width *= _WIDER
        return None if self.best == np.inf else self.solution()

    @property
    def left(self) -> F64:
        """Room above the base of the present table."""
        return self.room - self.table.base_cost

    @property
    def target(self) -> float:
        """What a selection must lose less than to be looked for."""
        if self.best == np.inf:
            return np.inf
        return self.best - max(ROUNDING * self.best, self.tolerance * (self.best + self.base_loss))

    @property
    def open(self) -> bool:
        """May there be a selection below the target?"""
        if self.best == np.inf:
            return self.lower < np.inf
        return self.target - self.lower > ROUNDING * self.best

    def presolve(self) -> bool:
        """Choices and bounds that cannot matter go; False when no selection is left."""
        table: ChoiceTable | None = self.table
        while table is not None:
            self.table = table
            if (self.left < 0).any():
                return False
            keep = np.ones(len(table.loss), bool)
            for cost, left in zip(table.cost.T, self.left, strict=True):
                keep &= table.regrets(cost) <= left
            if keep.all():
                break
            table = table.kept(keep)
        if table is None:
            return False
        idle = np.array([-table.best(-c)[1] for c in table.cost.T]) <= self.left
        for k, j in permutations(np.flatnonzero(~idle).tolist(), 2):
            idle[k] |= not idle[j] and _implied(
                table.cost[:, k], table.cost[:, j], self.left[k], self.left[j]
            )
        self.room, self.slack = self.room[~idle], self.slack[~idle]
        self.table = table.undominated().without(idle).undominated()
        return True

    def start(self, relaxed: Relaxation) -> None:
        """Selections within the bounds: those of the relaxation, and at dearer prices."""
        for picks in relaxed.seen:
            self.offer(picks)
        t, left = self.table, self.left
        if not len(left):
            return
        even = float(relaxed.prices @ left) / len(left) / left
        for towards in (relaxed.prices, even):
            low, high = 0.0, _DEAREST
            for _ in range(_HALVINGS):
                factor = math.sqrt((1 + low) * (1 + high)) - 1
                picks, _ = t.best(t.loss + t.cost @ (relaxed.prices + factor * towards))
                low, high = (low, factor) if self.offer(picks) else (factor, high)

    def offer(self, picks: Picks) -> bool:
        """Take a selection of the present table if it keeps the bounds and loses less; does it keep them?"""
        t = self.table
        if not (picks.cost <= self.left + self.slack).all():
            return False
        if t.base_loss + picks.loss < self.best:
            self.best, self.picked = t.base_loss + picks.loss, t.origin[picks.choices]
        return True

    def reduced(self, relaxed: Relaxation) -> Relaxation | None:
        """Choices go that cannot be part of a better selection; what is left, relaxed; None when nothing is."""
        made = self.promising(relaxed)
        if made is not None and self.best < np.inf:
            self.table = made
            self.improve()
            made = self.promising(relaxed)
        if made is not None and (self.room - made.base_cost >= 0).all():
            self.table = made.undominated()
            again = relax(self.table, self.left)
            if again.excess == 0:
                # what went before loses at least the target: only up to there does this bound hold for all
                self.lower = max(self.lower, min(self.target, self.table.base_loss + again.lower_bound))
                for picks in again.seen:
                    self.offer(picks)
                return again if self.open else None
        self.lower = self.target
        return None

    def promising(self, relaxed: Relaxation) -> ChoiceTable | None:
        """Choices that may be part of a better selection, and those of the best one known; None without any."""
        t = self.table
        own, paid = t.loss + t.cost @ relaxed.prices, float(relaxed.prices @ self.left)
        least = t.base_loss + t.best(own)[1] - paid
        good = t.regrets(own) <= self.target - least + ROUNDING * (abs(least) + paid)
        return t.kept(good | np.isin(t.origin, self.picked))

    def improve(self) -> None:
        """Change single items of the best selection known, where the present table holds all of it."""
        t, left = self.table, self.left + self.slack
        rows = np.flatnonzero(np.isin(t.origin, self.picked))
        if len(rows) == len(self.picked):
            best = Picks(rows, float(t.loss[rows].sum()), t.cost[rows].sum(0))
            self.offer(descend(t, best, lambda loss, cost: np.where(within(cost, left), loss, np.inf)))

    def look(self, relaxed: Relaxation, width: int) -> None:
        """Search what is left with lists of a width."""
        t, left = self.table, self.left
        flat = flatten(t, relaxed.prices, self.target - t.base_loss - relaxed.lower_bound, width)
        base = t.base_loss + flat.base_loss
        slack = 0.0 if self.best == np.inf else self.best - self.target
        found = search(
            flat.blocks, left - flat.base_cost, _weights(relaxed.prices, left), self.best - base, slack, width,
            self.node_limit - self.nodes,
        )  # fmt: skip
        self.nodes += found.nodes + flat.made
        if found.ways is not None:
            ways = zip(flat.blocks, found.ways.tolist(), strict=True)
            rows = np.concatenate([block.origin[way] for block, way in ways])
            taken = np.sort(np.flatnonzero(np.isin(t.origin, rows[rows >= 0])))
            self.offer(Picks(taken, float(t.loss[taken].sum()), t.cost[taken].sum(0)))
        proven = min(base + found.proven, t.base_loss + relaxed.lower_bound + flat.dropped)
        self.lower = max(self.lower, min(proven, self.target))

    def solution(self) -> Solution:
        taken = {self.rows[r].item: self.rows[r].choice for r in self.picked.tolist()}
        ordered = {i.name: taken[i.name] for i in every_item(self.items) if i.name in taken}
        loss, costs = sums(ordered.values())
        notes: tuple[str, ...] = ()
        if not self.open and not self.tolerance:
            lower = loss
        else:
            lower = min(loss, self.lower + self.base_loss)
            notes = (f"the least loss is at least {lower:.6g}: {self.nodes} partial selections were tried",)
        return Solution({n: c.label for n, c in ordered.items()}, loss, costs, lower, notes=notes)


def _implied(cost: F64, other: F64, room: float, other_room: float) -> bool:
    """Is this cost a multiple of the other, and kept by the other's bound?"""
    top = int(np.argmax(other))
    factor = cost[top] / other[top]
    return bool(np.allclose(cost, factor * other, rtol=1e-14, atol=0.0)) and factor * other_room <= room


def _weights(prices: F64, room: F64) -> F64:
    """Ways to weigh the costs to one, (M, D); the more there are, the closer the bound, at the price of time.

    At the prices; one bound without its price, at half of it, at double; one dearer and another cheaper; each alone.
    """
    dims = len(room)
    alone = np.diag(1.0 / room)
    if dims == 1:
        return alone
    one = np.diag(prices)
    dearer = one + 0.1 * float(prices @ room) * alone
    opposed = [prices + dearer[k] - 0.6 * one[j] for k, j in permutations(range(dims), 2)]
    made = np.concatenate([prices[None], prices - one, prices - 0.5 * one, prices + dearer, opposed, alone])
    return made[made.any(1)]
