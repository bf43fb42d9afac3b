"""Errors of different layers are not independent: what candidates lose together, from their projections.

With p_l the projections <g_i, dW_l> of the candidate that layer l takes, the loss of all of them is
1/2 E (sum_l p_l)^2, which the sum of single losses, 1/2 sum_l E p_l^2, knows but for the cross terms. Both come from
one Gram matrix of all candidates. A selection is improved by changing one or two layers at a time within the bounds.
Cross terms of a few samples are noisy, so they are shrunk by a factor that two halves of the samples agree on.
[architecture 6]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.assignment.scored import Picks, ScoredLayer

F64 = NDArray[np.float64]
SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the cross terms
MOST_PAIRED = 1500  # candidates in all, up to which two layers change at once
MOST_STEPS = 1000
LEAST_GAIN = 1e-6  # of the loss


@dataclass(frozen=True)
class Refined:
    """A selection with its cross terms looked at.

    Attributes:
        picks: index by layer.
        loss: predicted, cross terms and all.
        shrinkage: the factor that was used.
    """

    picks: Picks
    loss: float
    shrinkage: float


def joint_loss(projections: Mapping[str, F64], picks: Picks) -> float:
    """1/2 E (sum_l p_l)^2 of a selection.

    Args:
        projections: layer -> (samples, draws, M).
        picks: index by layer.
    """
    total = sum(p[:, :, picks[name]] for name, p in projections.items() if len(p))
    return float(np.square(total).mean() / 2)


def refine(
    layers: Sequence[ScoredLayer],
    projections: Mapping[str, F64],
    start: Picks,
    bounds: Mapping[str, float],
) -> Refined:
    """Improve a selection by what its candidates lose together.

    Args:
        layers: with candidates.
        projections: layer -> (samples, draws, M); layers that nothing flows back to may have no samples.
        start: within the bounds.
        bounds: upper bounds of sums of costs.
    """
    problem = _Problem(layers, bounds)
    alive = {n: p for n, p in projections.items() if len(p)}
    samples = len(next(iter(alive.values()))) if alive else 0
    if samples < 4:
        return Refined(dict(start), joint_loss(projections, start) if alive else 0.0, 0.0)
    halves = [np.arange(samples) % 2 == side for side in (0, 1)]
    grams = [problem.gram(alive, half) for half in halves]
    first = problem.state(start)
    gained = {
        a: sum(problem.loss(problem.improved(first, grams[i], a), grams[1 - i], 1.0) for i in (0, 1))
        for a in SHRINKAGES
    }
    shrinkage = min(SHRINKAGES, key=lambda a: (gained[a], a))
    whole = problem.gram(alive, np.ones(samples, bool))
    found = problem.improved(first, whole, shrinkage)
    return Refined(problem.picks(found), problem.loss(found, whole, 1.0), shrinkage)


class _Problem:
    """All candidates in one row; a state is the index of the candidate that each layer takes."""

    def __init__(self, layers: Sequence[ScoredLayer], bounds: Mapping[str, float]) -> None:
        self.layers = layers
        counts = [len(layer.candidates) for layer in layers]
        self.first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
        self.owner = np.repeat(np.arange(len(layers)), counts)
        names = list(bounds)
        self.costs = np.array(
            [[c.costs.get(k, 0.0) for k in names] for layer in layers for c in layer.candidates], np.float64
        ).reshape(sum(counts), len(names))
        limits = np.array([bounds[k] for k in names], np.float64)
        self.limits = limits + 1e-9 * np.abs(limits)

    def gram(self, projections: Mapping[str, F64], rows: NDArray[np.bool_]) -> F64:
        """E p q of all pairs of candidates."""
        count = int(rows.sum()) * next(iter(projections.values())).shape[1]
        columns = []
        for layer in self.layers:
            p = projections.get(layer.name)
            wide = np.zeros((count, len(layer.candidates))) if p is None else p[rows].reshape(count, -1)
            columns.append(wide)
        stacked = np.concatenate(columns, axis=1)
        return np.asarray(stacked.T @ stacked / count)

    def state(self, picks: Picks) -> NDArray[np.intp]:
        return self.first + np.array([picks[layer.name] for layer in self.layers], np.intp)

    def picks(self, state: NDArray[np.intp]) -> dict[str, int]:
        return {layer.name: int(i) for layer, i in zip(self.layers, state - self.first, strict=True)}

    def loss(self, state: NDArray[np.intp], gram: F64, shrinkage: float) -> float:
        """1/2 of the squares and the shrunk cross terms."""
        part = gram[np.ix_(state, state)]
        return float(shrinkage * part.sum() + (1 - shrinkage) * np.trace(part)) / 2

    def improved(self, state: NDArray[np.intp], gram: F64, shrinkage: float) -> NDArray[np.intp]:
        """Steepest descent over changes of one layer, then of two."""
        state = state.copy()
        paired = len(gram) <= MOST_PAIRED
        for _ in range(MOST_STEPS):
            change, cost = self._changes(state, gram, shrinkage)
            room = self.limits - self.costs[state].sum(axis=0)
            least = -LEAST_GAIN * max(self.loss(state, gram, shrinkage), 1e-300)
            single = np.where((cost <= room).all(axis=1), change, np.inf)
            best = int(np.argmin(single))
            if single[best] < least:
                state[self.owner[best]] = best
                continue
            pair = self._best_pair(state, gram, shrinkage, change, cost, room) if paired else None
            if pair is None or pair[0] >= least:
                break
            for candidate in pair[1:]:
                state[self.owner[int(candidate)]] = int(candidate)
        return state

    def _changes(self, state: NDArray[np.intp], gram: F64, shrinkage: float) -> tuple[F64, F64]:
        """Of each candidate in place of what its layer takes: change of the loss, (n,), and of the costs, (n, D)."""
        own = state[self.owner]
        squares = np.diagonal(gram)
        beside = gram[:, state].sum(axis=1) - gram[np.arange(len(gram)), own]  # with all other layers
        beside_own = (gram[state][:, state].sum(axis=1) - squares[state])[self.owner]
        change = (squares - squares[own]) / 2 + shrinkage * (beside - beside_own)
        return np.asarray(change), self.costs - self.costs[own]

    def _best_pair(
        self,
        state: NDArray[np.intp],
        gram: F64,
        shrinkage: float,
        change: F64,
        cost: F64,
        room: F64,
    ) -> tuple[float, int, int] | None:
        own = state[self.owner]
        cross = gram - gram[:, own] - gram[own, :] + gram[np.ix_(own, own)]
        total = change[:, None] + change[None, :] + shrinkage * cross
        total[self.owner[:, None] == self.owner[None, :]] = np.inf
        for d in range(cost.shape[1]):
            total[cost[:, d][:, None] + cost[:, d][None, :] > room[d]] = np.inf
        at = int(np.argmin(total))
        i, j = divmod(at, len(total))
        return None if not np.isfinite(total[i, j]) else (float(total[i, j]), i, j)
