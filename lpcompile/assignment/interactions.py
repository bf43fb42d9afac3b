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
SHRINKAGES = (0.0, 0.25, 0.5)  # of the cross terms; more than half of them never held on other samples
MOST_PAIRED = 1500  # candidates in all, up to which two layers change at once
MOST_STEPS = 1000
LEAST_GAIN = 1e-6  # of the loss
LEAST_SAMPLES = 4


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
    """Improve a selection by what its candidates lose together; see `Interactions`."""
    return Interactions(layers, projections, bounds).refined(start)


class Interactions:
    """Cross terms of all candidates within bounds.

    Args:
        layers: with candidates.
        projections: layer -> (samples, draws, M); layers that nothing flows back to may have no samples.
        bounds: upper bounds of sums of costs.
    """

    def __init__(
        self, layers: Sequence[ScoredLayer], projections: Mapping[str, F64], bounds: Mapping[str, float]
    ) -> None:
        self._problem = _Problem(layers, bounds)
        alive = {n: p for n, p in projections.items() if len(p)}
        samples = len(next(iter(alive.values()))) if alive else 0
        self.known = samples >= LEAST_SAMPLES
        self.shrinkage = 0.0
        if self.known:
            self._halves = [self._problem.gram(alive, np.arange(samples) % 2 == side) for side in (0, 1)]
            self._gram = self._problem.gram(alive, np.ones(samples, bool))

    def refined(self, start: Picks) -> Refined:
        """A better selection from one within the bounds; the same where too few samples are known."""
        if not self.known:
            return Refined(dict(start), 0.0, 0.0)
        p = self._problem
        first = p.state(start)
        held_out = {
            a: sum(p.loss(p.improved(first, self._halves[i], a), self._halves[1 - i], 1.0) for i in (0, 1))
            for a in SHRINKAGES
        }
        self.shrinkage = min(SHRINKAGES, key=lambda a: (held_out[a], a))
        found = p.improved(first, self._gram, self.shrinkage)
        return Refined(p.picks(found), p.loss(found, self._gram, 1.0), self.shrinkage)

    def moves(self, picks: Picks, most: int) -> list[dict[str, int]]:
        """Changes of one or two layers that are predicted to gain most, or to lose least, from a selection."""
        if not self.known:
            return []
        p = self._problem
        return p.moves(p.state(picks), self._gram, self.shrinkage, most)


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

    def moves(self, state: NDArray[np.intp], gram: F64, shrinkage: float, most: int) -> list[dict[str, int]]:
        """The changes within the bounds that are predicted best, as layer -> candidate."""
        change, cost = self._changes(state, gram, shrinkage)
        room = self.limits - self.costs[state].sum(axis=0)
        single = np.where((cost <= room).all(axis=1), change, np.inf)
        single[state] = np.inf  # no change
        found: list[tuple[float, tuple[int, ...]]] = [
            (float(single[i]), (int(i),)) for i in np.argsort(single, kind="stable")[:most]
        ]
        if len(gram) <= MOST_PAIRED:
            total = np.triu(self._pairs(state, gram, shrinkage, change, cost, room), 1)
            total[np.tril_indices(len(total))] = np.inf
            total[state, :] = np.inf
            total[:, state] = np.inf
            flat = np.argsort(total, axis=None, kind="stable")[:most]
            pairs = zip(*np.unravel_index(flat, total.shape), strict=True)
            found += [(float(total[i, j]), (int(i), int(j))) for i, j in pairs]
        found = sorted(f for f in found if np.isfinite(f[0]))[:most]
        return [
            {self.layers[self.owner[i]].name: i - int(self.first[self.owner[i]]) for i in chosen}
            for _, chosen in found
        ]

    def _changes(self, state: NDArray[np.intp], gram: F64, shrinkage: float) -> tuple[F64, F64]:
        """Of each candidate in place of what its layer takes: change of the loss, (n,), and of the costs, (n, D)."""
        own = state[self.owner]
        squares = np.diagonal(gram)
        beside = gram[:, state].sum(axis=1) - gram[np.arange(len(gram)), own]  # with all other layers
        beside_own = (gram[state][:, state].sum(axis=1) - squares[state])[self.owner]
        change = (squares - squares[own]) / 2 + shrinkage * (beside - beside_own)
        return np.asarray(change), self.costs - self.costs[own]

    def _pairs(
        self,
        state: NDArray[np.intp],
        gram: F64,
        shrinkage: float,
        change: F64,
        cost: F64,
        room: F64,
    ) -> F64:
        """(n, n) changes of the loss by two candidates of different layers; inf outside the bounds."""
        own = state[self.owner]
        cross = gram - gram[:, own] - gram[own, :] + gram[np.ix_(own, own)]
        total = change[:, None] + change[None, :] + shrinkage * cross
        total[self.owner[:, None] == self.owner[None, :]] = np.inf
        for d in range(cost.shape[1]):
            total[cost[:, d][:, None] + cost[:, d][None, :] > room[d]] = np.inf
        return np.asarray(total)

    def _best_pair(
        self,
        state: NDArray[np.intp],
        gram: F64,
        shrinkage: float,
        change: F64,
        cost: F64,
        room: F64,
    ) -> tuple[float, int, int] | None:
        total = self._pairs(state, gram, shrinkage, change, cost, room)
        at = int(np.argmin(total))
        i, j = divmod(at, len(total))
        return None if not np.isfinite(total[i, j]) else (float(total[i, j]), i, j)
