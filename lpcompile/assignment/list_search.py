"""The exact search: items are joined one after the other to a list of partial selections.

A partial selection leaves the list when another one loses and costs no more, or when its loss and the least the
remaining items can lose within what is left of the bounds reach the best selection known. That least is read off
the convex hull of the remaining items' costs, weighed to one cost (a surrogate bound): for one bound it is the
linear relaxation itself. A list that grows beyond its width keeps the most promising, and what was dropped limits
what is proven. Items whose costs differ most come first, since they are what makes the relaxation loose.
[lists of undominated states: Nemhauser, Ullmann 1969; surrogate bounds: Glover 1975]
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from lpcompile.assignment.blocks import Block
from lpcompile.assignment.pareto import F64, I64, ROUNDING, Mask, lower_hull, undominated, within

_BACK = 4  # corners tried when several bounds have room for different ones


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        loss: of the best selection, the one given at the start included.
        ways: (blocks,) the way taken of every block, None when nothing better than the given was found.
        proven: no selection has less loss; below the best by the slack at least.
        nodes: partial selections made.
    """

    loss: float
    ways: I64 | None
    proven: float
    nodes: int


def search(
    blocks: Sequence[Block], room: F64, weights: F64, best: float, slack: float, width: int, nodes: int
) -> Found:
    """Least loss of one way a block within the room.

    Args:
        blocks: at least one; (K,) losses, (K, D) costs.
        room: (D,) bounds of the summed costs.
        weights: (M, D) how costs are weighed to one, the best first; at least 0.
        best: loss of a selection already known; infinite without one.
        slack: a selection must be better by this to be looked for.
        width: the longest list.
        nodes: the most partial selections to make.
    """
    coarse = np.array([-float((b.cost.max(0) / room).sum()) for b in blocks])
    order = np.argsort(
        coarse, kind="stable"
    )  # the small ones last: they fill what room is left almost evenly
    return _Search([blocks[i] for i in order], order, room, weights, best, slack, width, nodes).run()


class _Hull:
    """Hulls of all blocks along one weighing of the costs, merged by steepness."""

    def __init__(self, blocks: Sequence[Block], weights: F64) -> None:
        self.weights = weights
        block, way, before, dx, dy, steps = [], [], [], [], [], []
        self.first = np.empty(len(blocks), np.int64)  # way of least weighed cost
        x0, y0, c0 = [], [], []
        for i, b in enumerate(blocks):
            x = b.cost @ weights
            h = lower_hull(x, b.loss)
            self.first[i] = h[0]
            x0.append(x[h[0]])
            y0.append(b.loss[h[-1]])
            c0.append(b.cost[h[0]])
            block.append(np.full(len(h) - 1, i))
            way.append(h[1:])
            before.append(h[:-1])
            dx.append(np.diff(x[h]))
            dy.append(-np.diff(b.loss[h]))
            steps.append(np.diff(b.cost[h], axis=0))
        self.x0, self.y0, self.c0 = np.array(x0), np.array(y0), np.array(c0)
        dxs, dys = np.concatenate(dx), np.concatenate(dy)
        order = np.argsort(-dys / dxs, kind="stable")
        self.block, self.way = np.concatenate(block)[order], np.concatenate(way)[order]
        self.dx, self.dy, self.steps = dxs[order], dys[order], np.concatenate(steps)[order]

    def after(self, stage: int, full: bool = False) -> tuple[F64, F64, F64, I64]:
        """Weighed cost, loss, costs of the hull's corners for the blocks behind a stage, and the steps it takes."""
        taken = np.flatnonzero(self.block > stage)
        x = np.concatenate([[0.0], np.cumsum(self.dx[taken])]) + self.x0[stage + 1 :].sum()
        y = np.concatenate([np.cumsum(self.dy[taken][::-1])[::-1], [0.0]]) + self.y0[stage + 1 :].sum()
        c = self.steps[:0]
        if full:
            c = np.concatenate([np.zeros((1, self.steps.shape[1])), np.cumsum(self.steps[taken], axis=0)])
            c = c + self.c0[stage + 1 :].sum(0)
        return x, y, c, taken


def _least(left: F64, x: F64, y: F64, room: float) -> F64:
    """Loss of a hull (x, y) at what is left of the room; infinite where that is less than the hull needs."""
    found = np.asarray(np.interp(left, x, y))
    found[left < x[0] - ROUNDING * room] = np.inf
    return found


@dataclass(frozen=True)
class _List:
    """S partial selections: which of the last list they grew from, by which way, and what they come to."""

    from_: I64
    way: I64
    loss: F64
    cost: F64  # (S, D)
    bound: F64  # of the loss of what they can become
    left: F64  # room, weighed

    def taken(self, rows: I64 | Mask) -> "_List":
        return _List(*(getattr(self, f.name)[rows] for f in fields(self)))

    def below(self, target: float) -> "_List":
        return self.taken(np.flatnonzero(self.bound < target))


class _Search:
    def __init__(
        self, blocks: Sequence[Block], order: I64, room: F64, weights: F64,
        best: float, slack: float, width: int, nodes: int,
    ) -> None:  # fmt: skip
        self.blocks, self.order, self.room, self.slack = blocks, order, room, slack
        self.width, self.limit = width, nodes
        self.hulls = [_Hull(blocks, w) for w in weights]
        self.best, self.proven, self.nodes = best, np.inf, 0
        self.ways: I64 | None = None
        self.back: list[tuple[I64, I64]] = []

    @property
    def target(self) -> float:
        """Partial selections must stay below."""
        return self.best - max(self.slack, ROUNDING * self.best) if np.isfinite(self.best) else np.inf

    def run(self) -> Found:
        loss, cost = np.zeros(1), np.zeros((1, len(self.room)))
        for stage in range(len(self.blocks)):
            loss, cost = self.join(stage, loss, cost)
            if not len(loss):
                break
        return Found(self.best, self.ways, min(self.proven, self.target), self.nodes)

    def join(self, stage: int, loss: F64, cost: F64) -> tuple[F64, F64]:
        """The list with every way of one more block; its losses and costs."""
        block, main = self.blocks[stage], self.hulls[0]
        self.nodes += len(loss) * len(block)
        x, y, corners, taken = main.after(stage, full=True)
        w = main.weights
        sums = loss[:, None] + block.loss
        left = float(w @ self.room) - ((cost @ w)[:, None] + block.cost @ w)
        bound = sums + _least(left, x, y, float(w @ self.room))
        from_, way = np.nonzero(bound < self.target)
        made = _List(
            from_, way, sums[from_, way], cost[from_] + block.cost[way], bound[from_, way], left[from_, way]
        )
        made = made.taken(within(made.cost, self.room))
        made = made.taken(undominated(made.loss, made.cost))
        for hull in self.hulls[1:]:
            x2, y2, _, _ = hull.after(stage)
            room = float(hull.weights @ self.room)
            more = made.loss + _least(room - made.cost @ hull.weights, x2, y2, room)
            made = replace(made, bound=np.maximum(made.bound, more))
            made = made.below(self.target)
        self.back.append((made.from_, made.way))
        self.complete(stage, (x, y, corners, taken), made)
        made = made.below(self.target)
        longer = len(self.blocks[stage + 1]) if stage + 1 < len(self.blocks) else 1
        allowed = min(self.width, max(0, self.limit - self.nodes) // longer)
        if len(made.loss) > allowed:
            order = np.lexsort((made.loss, made.bound))
            self.proven = min(self.proven, float(made.bound[order[allowed]]))
            made = made.taken(np.sort(order[:allowed]))
        self.back[-1] = (made.from_, made.way)
        return made.loss, made.cost

    def complete(self, stage: int, hull: tuple[F64, F64, F64, I64], made: _List) -> None:
        """Fill up every partial selection along the main hull, as far as its room reaches."""
        x, y, corners, taken = hull
        at = np.searchsorted(x, made.left * (1 + ROUNDING), side="right") - 1
        for back in range(1 if len(self.room) == 1 else _BACK):
            corner = np.maximum(at - back, 0)
            total = made.loss + y[corner]
            good = np.flatnonzero(total < (self.best * (1 - ROUNDING) if np.isfinite(self.best) else np.inf))
            good = good[within(made.cost[good] + corners[corner[good]], self.room)]
            if len(good):
                row = int(good[np.argmin(total[good])])
                self.best = float(total[row])
                self.ways = self.trace(stage, row, taken[: corner[row]])

    def trace(self, stage: int, row: int, steps: I64) -> I64:
        """The ways of all blocks, in the order they were given."""
        main = self.hulls[0]
        ways = main.first.copy()
        ways[main.block[steps]] = main.way[steps]  # the last step of a block stands
        for s in range(stage, -1, -1):
            from_, way = self.back[s]
            ways[s] = way[row]
            row = int(from_[row])
        made = np.empty_like(ways)
        made[self.order] = ways
        return made
