"""Items with members as flat lists of what their choices can become together, so that one search serves both."""

from dataclasses import dataclass

import numpy as np

from lpcompile.assignment.choice_table import ChoiceTable
from lpcompile.assignment.pareto import F64, I64, ROUNDING, undominated

_PAIRS = 1 << 21  # the most that are looked at when two lists are joined
_HALVINGS = 60


@dataclass(frozen=True)
class Block:
    """What an item at the top can be: K ways.

    Attributes:
        loss: (K,) the least is 0.
        cost: (K, D) the least of each is 0.
        origin: (K, M) rows of the first table taken together, filled with -1.
    """

    loss: F64
    cost: F64
    origin: I64

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Blocks:
    """The items at the top.

    Attributes:
        blocks: in the order of the items.
        base_loss: taken out of the blocks, above the table's base.
        base_cost: (D,) the same.
        dropped: the least regret (at the prices) of what had no place; infinite when all had.
        made: how many ways were looked at.
    """

    blocks: tuple[Block, ...]
    base_loss: float
    base_cost: F64
    dropped: float
    made: int


def flatten(table: ChoiceTable, prices: F64, regret: float, width: int) -> Blocks:
    """Every way of each item at the top that may be part of a better selection.

    Args:
        table: the choices.
        prices: (D,) of the bounded costs.
        regret: ways whose regret at the prices is larger cannot.
        width: the most ways kept for an item.
    """
    return _Flattening(table, prices, regret, width).run()


class _Flattening:
    def __init__(self, table: ChoiceTable, prices: F64, regret: float, width: int) -> None:
        self.table, self.prices, self.width = table, prices, width
        self.limit = regret
        self.values, self.least = table.values(table.loss + table.cost @ prices)
        self.children = table.children()
        self.dropped = np.inf
        self.made = 0

    def run(self) -> Blocks:
        blocks = []
        dims = self.table.cost.shape[1]
        base = np.zeros(dims + 1)
        for i in range(self.table.roots):
            block = self.ways(i, 0.0)
            shift, least = float(block.loss.min()), block.cost.min(0)
            base += np.append(shift, least)
            blocks.append(Block(block.loss - shift, block.cost - least, block.origin))
        return Blocks(tuple(blocks), float(base[0]), base[1:], self.dropped, self.made)

    def ways(self, item: int, spent: float) -> Block:
        """What an item can become when the choices that bring it have spent some of the regret."""
        t = self.table
        rows = np.arange(t.start[item], t.start[item + 1])
        plain = np.array([r for r in rows.tolist() if not self.children[r]], np.int64)
        parts = [Block(t.loss[plain], t.cost[plain], t.origin[plain, None])] if len(plain) else []
        for row in rows.tolist():
            more = spent + float(self.values[row] - self.least[item])
            if self.children[row] and more <= max(self.limit, spent):
                parts.append(self.together(row, more))
        if len(parts) == 1:
            return parts[0]
        longest = max(p.origin.shape[1] for p in parts)
        made = Block(
            np.concatenate([p.loss for p in parts]),
            np.concatenate([p.cost for p in parts]),
            np.concatenate([_filled(p.origin, longest) for p in parts]),
        )
        return _taken(made, undominated(made.loss, made.cost))

    def together(self, row: int, spent: float) -> Block:
        """A choice joined with all ways of its members."""
        t = self.table
        made = Block(t.loss[row : row + 1], t.cost[row : row + 1], t.origin[row : row + 1, None])
        rest = sum(float(self.least[m]) for m in self.children[row])
        for member in self.children[row]:
            ways = self.ways(member, spent)
            rest -= float(self.least[member])
            one = made.loss + made.cost @ self.prices + (rest - self.values[row])
            other = ways.loss + ways.cost @ self.prices
            bound = max(self.limit - spent, 0.0) + ROUNDING * abs(self.values[row])
            a, b, lost = _pairs(one, other, bound)
            self.dropped = min(self.dropped, spent + lost)
            self.made += len(a)
            regret = one[a] + other[b]
            loss, cost = made.loss[a] + ways.loss[b], made.cost[a] + ways.cost[b]
            front = undominated(loss, cost)
            if len(front) > self.width:
                order = np.argsort(regret[front], kind="stable")
                lost = float(regret[front[order[self.width]]])
                self.dropped = min(self.dropped, spent + lost)
                front = front[np.sort(order[: self.width])]
            a, b = a[front], b[front]
            made = Block(loss[front], cost[front], np.concatenate([made.origin[a], ways.origin[b]], axis=1))
        return made


def _pairs(one: F64, other: F64, bound: float) -> tuple[I64, I64, float]:
    """Which pairs sum up to no more than a bound; when there are too many the least, and where they were cut."""
    order = np.argsort(other, kind="stable")
    ascending = other[order]
    counts = np.searchsorted(ascending, bound - one, side="right")
    low, high, cut = float(one.min() + ascending[0]), min(bound, float(one.max() + ascending[-1])), np.inf
    if counts.sum() > _PAIRS:
        for _ in range(_HALVINGS):
            cut = (low + high) / 2
            counts = np.searchsorted(ascending, cut - one, side="right")
            low, high = (low, cut) if counts.sum() > _PAIRS else (cut, high)
        cut = low
        counts = np.searchsorted(ascending, cut - one, side="right")
    a = np.repeat(np.arange(len(one)), counts)
    b = order[np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts)]
    return a, b, cut


def _filled(origin: I64, width: int) -> I64:
    return np.pad(origin, ((0, 0), (0, width - origin.shape[1])), constant_values=-1)


def _taken(block: Block, rows: I64) -> Block:
    return Block(block.loss[rows], block.cost[rows], block.origin[rows])
