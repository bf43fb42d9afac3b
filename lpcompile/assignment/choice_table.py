"""Items and their choices as flat arrays, so that a relaxed problem is solved by a few array operations.

Items stand level by level (members below the choice that brings them), their choices side by side. Losses and costs
are shifted so that the least of every item is 0 in each of them; what was taken away stands in `base_*`, or in the
choice that brings the member.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.assignment.pareto import F64, I64, Mask, undominated
from lpcompile.assignment.problem import Choice, Item


@dataclass(frozen=True)
class Picks:
    """A selection: one choice of every item that is brought.

    Attributes:
        choices: (P,) rows of the table, ascending.
        loss: above `base_loss`.
        cost: (D,) above `base_cost`.
    """

    choices: I64
    loss: float
    cost: F64


@dataclass(frozen=True)
class ChoiceTable:
    """A problem of C choices of I items, with D bounded costs.

    Attributes:
        loss: (C,) at least 0.
        cost: (C, D) at least 0.
        origin: (C,) row of the choice in the table that was read first.
        item: (C,) which item the choice belongs to.
        start: (I + 1,) first choice of every item.
        parent: (I,) the choice that brings the item, -1 for an item at the top.
        levels: (first, behind the last) item of every level, the top first.
        base_loss: what every selection loses at least, taken out of `loss`.
        base_cost: (D,) what every selection costs at least, taken out of `cost`.
    """

    loss: F64
    cost: F64
    origin: I64
    item: I64
    start: I64
    parent: I64
    levels: tuple[tuple[int, int], ...]
    base_loss: float
    base_cost: F64

    @property
    def roots(self) -> int:
        """How many items stand at the top."""
        return self.levels[0][1] if self.levels else 0

    def children(self) -> list[list[int]]:
        """Items brought by every choice."""
        found: list[list[int]] = [[] for _ in self.loss]
        for i, c in enumerate(self.parent.tolist()):
            if c >= 0:
                found[c].append(i)
        return found

    def values(self, own: F64) -> tuple[F64, F64]:
        """Each choice's value with the best of its members, (C,), and each item's least value, (I,)."""
        value, least = own.copy(), np.empty(len(self.parent))
        for level, (a, b) in reversed(list(enumerate(self.levels))):
            first = self.start[a]
            least[a:b] = np.minimum.reduceat(value[first : self.start[b]], self.start[a:b] - first)
            if level:
                np.add.at(value, self.parent[a:b], least[a:b])
        return value, least

    def regrets(self, own: F64) -> F64:
        """How much the least sum of `own` grows when a selection must take the choice, (C,)."""
        value, least = self.values(own)
        regret = value - least[self.item]
        for a, b in self.levels[1:]:
            rows = slice(self.start[a], self.start[b])
            regret[rows] += regret[self.parent[self.item[rows]]]
        return regret

    def best(self, own: F64) -> tuple[Picks, float]:
        """The selection of least sum of `own` (first of equals), and that sum."""
        value, least = self.values(own)
        rows = np.where(value == least[self.item], np.arange(len(value)), len(value))
        first = np.minimum.reduceat(rows, self.start[:-1])
        return self.picks(first), float(least[: self.roots].sum())

    def picks(self, first: I64) -> Picks:
        """The selection that takes choice `first[i]` of every item that is brought."""
        active = np.ones(len(first), bool)
        taken = np.zeros(len(self.loss), bool)
        for a, b in self.levels:
            up = self.parent[a:b]
            active[a:b] = (up < 0) | taken[up]
            taken[first[a:b][active[a:b]]] = True
        chosen = np.flatnonzero(taken)
        return Picks(chosen, float(self.loss[chosen].sum()), self.cost[chosen].sum(0))

    def kept(self, keep: Mask) -> "ChoiceTable | None":
        """Only these choices; None when an item at the top loses all of its own."""
        if keep.all():
            return self
        keep = keep.copy()
        for level, (a, b) in reversed(list(enumerate(self.levels))):
            first = self.start[a]
            alive = np.logical_or.reduceat(keep[first : self.start[b]], self.start[a:b] - first)
            if level:
                keep[self.parent[a:b][~alive]] = False
            elif not alive.all():
                return None
        living = np.ones(len(self.parent), bool)
        for a, b in self.levels[1:]:
            living[a:b] = keep[self.parent[a:b]]
            rows = slice(self.start[a], self.start[b])
            keep[rows] &= living[self.item[rows]]
        renamed = np.cumsum(keep) - 1
        up = self.parent[living]
        counts = np.bincount(self.item[keep], minlength=len(self.parent))[living]
        ends = np.concatenate([[0], np.cumsum(living)])
        levels = tuple((int(ends[a]), int(ends[b])) for a, b in self.levels if ends[b] > ends[a])
        return _normalised(
            self.loss[keep], self.cost[keep], self.origin[keep], counts,
            np.where(up < 0, -1, renamed[up]), levels, self.base_loss, self.base_cost,
        )  # fmt: skip

    def without(self, dims: Mask) -> "ChoiceTable":
        """The bounded costs with a True in `dims` left out."""
        return ChoiceTable(
            self.loss, self.cost[:, ~dims], self.origin, self.item, self.start, self.parent,
            self.levels, self.base_loss, self.base_cost[~dims],
        )  # fmt: skip

    def undominated(self) -> "ChoiceTable":
        """Without choices that lose and cost no less than another of their item, among those that bring no members."""
        brings = np.zeros(len(self.loss), bool)
        brings[self.parent[self.parent >= 0]] = True
        keep = brings.copy()
        for a, b in zip(self.start[:-1].tolist(), self.start[1:].tolist(), strict=True):
            rows = np.flatnonzero(~brings[a:b]) + a
            keep[rows[undominated(self.loss[rows], self.cost[rows])]] = True
        made = self.kept(keep)
        assert made is not None  # an item never loses all its choices to dominance
        return made


@dataclass(frozen=True)
class Row:
    """Where a choice of the first table comes from."""

    item: str
    choice: Choice


def read(items: Sequence[Item], names: Sequence[str]) -> tuple[ChoiceTable, list[Row]]:
    """The table of a problem and the origin of its rows.

    Args:
        items: the items at the top.
        names: the bounded costs; a choice that does not name one costs nothing of it.
    """
    rows: list[Row] = []
    counts: list[int] = []
    parent: list[int] = []
    levels: list[tuple[int, int]] = []
    waiting: list[tuple[Item, int]] = [(item, -1) for item in items]
    while waiting:
        levels.append((len(parent), len(parent) + len(waiting)))
        below: list[tuple[Item, int]] = []
        for item, up in waiting:
            parent.append(up)
            counts.append(len(item.choices))
            for choice in item.choices:
                below += [(member, len(rows)) for member in choice.members]
                rows.append(Row(item.name, choice))
        waiting = below
    loss = np.array([r.choice.loss for r in rows], np.float64)
    cost = np.array([[r.choice.costs.get(n, 0.0) for n in names] for r in rows], np.float64)
    table = _normalised(
        loss, cost.reshape(len(rows), len(names)), np.arange(len(rows)), np.array(counts, np.int64),
        np.array(parent, np.int64), tuple(levels), 0.0, np.zeros(len(names)),
    )  # fmt: skip
    return table, rows


def _normalised(
    loss: F64, cost: F64, origin: I64, counts: I64, parent: I64,
    levels: tuple[tuple[int, int], ...], base_loss: float, base_cost: F64,
) -> ChoiceTable:  # fmt: skip
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    item = np.repeat(np.arange(len(counts)), counts)
    both = np.column_stack([loss, cost])
    base = np.concatenate([[base_loss], base_cost])
    for level, (a, b) in reversed(list(enumerate(levels))):
        rows = slice(start[a], start[b])
        least = np.minimum.reduceat(both[rows], start[a:b] - start[a], axis=0)
        both[rows] -= least[item[rows] - a]
        if level:
            np.add.at(both, parent[a:b], least)
        else:
            base = base + least.sum(0)
    return ChoiceTable(
        np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1:]), origin.astype(np.int64), item,
        start, parent.astype(np.int64), levels, float(base[0]), base[1:],
    )  # fmt: skip
