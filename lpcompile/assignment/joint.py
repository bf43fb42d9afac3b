"""Assignments measured as a whole, because predicted losses of single layers do not add up exactly.

Rivals are measured on the deciding calls and the best goes on; then changes of one or two layers that are predicted to
gain most are tried one after the other with all others in place. One stays where it lowers the measured loss by more
than its paired standard error; one that clearly loses on the first calls is measured no further. [architecture 6]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.assignment.scored import Assignment, Picks, ScoredLayer, with_picks

F64 = NDArray[np.float64]
Measure = Callable[[Picks], F64]  # loss of each call, with the weights of these picks in the float model
Trial = Callable[[Picks, Callable[[F64], bool]], F64]  # the same, until what it has measured so far is enough
CLEARLY = 2.0  # paired standard errors: many changes are tried on the same calls
LOST = 1.0  # paired standard errors by which a change that is worse so far is measured no further
LEAST_CALLS = 3  # that say so


@dataclass(frozen=True)
class Joint:
    """What measuring found.

    Attributes:
        assignment: the best one.
        measured: loss by name of what was measured.
        swapped: layers whose choice measuring changed -> (label before, label after).
        measurements: how many.
        others: rivals with other picks, the least measured loss first.
    """

    assignment: Assignment
    measured: Mapping[str, float]
    swapped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    measurements: int = 0
    others: Sequence[Assignment] = ()


def best_measured(
    layers: Sequence[ScoredLayer],
    rivals: Sequence[Assignment],
    measure: Measure,
    *,
    bounds: Mapping[str, float],
    swaps: int,
    moves: Callable[[Picks, int], list[dict[str, int]]] | None = None,
    trial: Trial | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Joint:
    """The rival with the least measured loss, with doubtful choices tried anew.

    Args:
        layers: with candidates.
        rivals: all within the bounds; the first is taken where several are equally good.
        measure: of a whole assignment.
        bounds: upper bounds of sums of costs.
        swaps: how many changes are tried.
        moves: changes worth trying from a selection; None: by the standard errors of the predicted losses.
        trial: measures a change as long as it may still win; None: on all calls, like the rivals.
        progress: called with (done, total).
    """
    total = len(rivals) + swaps
    measured: dict[str, float] = {}
    best, best_losses = rivals[0], np.zeros(0)
    for i, rival in enumerate(rivals):
        losses = measure(rival.picks)
        measured[rival.name] = float(losses.mean())
        if i == 0 or losses.mean() < best_losses.mean():
            best, best_losses = rival, losses
        if progress is not None:
            progress(i + 1, total)
    picks, tried = dict(best.picks), {tuple(sorted(best.picks.items()))}

    def proposals() -> list[dict[str, int]]:
        found = (
            _doubtful(layers, with_picks(layers, picks, ""), bounds)
            if moves is None
            else moves(picks, 2 * swaps)
        )
        return [m for m in found if tuple(sorted({**picks, **m}.items())) not in tried]

    def lost(losses: F64) -> bool:
        difference, error = _paired(losses, best_losses)
        return len(losses) >= LEAST_CALLS and difference > LOST * error

    queue = proposals()
    for done in range(swaps):
        if not queue:
            break
        changed = {**picks, **queue.pop(0)}
        tried.add(tuple(sorted(changed.items())))
        losses = measure(changed) if trial is None else trial(changed, lost)
        if progress is not None:
            progress(len(rivals) + done + 1, total)
        difference, error = _paired(losses, best_losses)
        if len(losses) == len(best_losses) and difference < -CLEARLY * error and difference < 0:
            picks, best_losses = changed, losses
            queue = proposals()
    if progress is not None:
        progress(total, total)
    found = with_picks(layers, picks, best.name)
    swapped = {
        layer.name: (layer.candidates[before].label, layer.candidates[picks[layer.name]].label)
        for layer in layers
        if (before := best.picks[layer.name]) != picks[layer.name]
    }
    measured["chosen"] = float(best_losses.mean())
    kept = Assignment(best.name, picks, found.loss, found.costs, best.lower_bound, best.notes)
    return Joint(
        kept, measured, swapped, len(rivals) + len(tried) - 1, _others(rivals, measured, (best.picks, picks))
    )


def _paired(losses: F64, best: F64) -> tuple[float, float]:
    """Mean of how much more is lost than by the best, on the calls that both know, and its standard error."""
    difference = losses - best[: len(losses)]
    error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return float(difference.mean()), error


def _others(
    rivals: Sequence[Assignment], measured: Mapping[str, float], known: Sequence[Picks]
) -> Sequence[Assignment]:
    seen, others = list(known), []
    for rival in sorted(rivals, key=lambda r: measured[r.name]):
        if rival.picks not in seen:
            seen.append(rival.picks)
            others.append(rival)
    return tuple(others)


def _doubtful(
    layers: Sequence[ScoredLayer], assignment: Assignment, bounds: Mapping[str, float]
) -> list[dict[str, int]]:
    """Swaps of one layer that stay within the bounds, most doubtful first.

    Doubt is the chance, in units of the loss, that the other choice is better: its standard error less the predicted
    disadvantage.
    """
    found: list[tuple[float, str, ScoredLayer, int]] = []
    for layer in layers:
        own = layer.candidates[assignment.picks[layer.name]]
        for j, other in enumerate(layer.candidates):
            if j == assignment.picks[layer.name]:
                continue
            if any(
                assignment.costs.get(k, 0.0) - own.costs.get(k, 0.0) + other.costs.get(k, 0.0) > bound
                for k, bound in bounds.items()
            ):
                continue
            doubt = max(own.error, other.error) - (other.loss - own.loss)
            if doubt > 0:
                found.append((-doubt, layer.name, layer, j))
    found.sort(key=lambda f: (f[0], f[1], f[3]))
    best: dict[str, int] = {}
    for _, name, _, j in found:
        best.setdefault(name, j)  # one swap a layer
    return [{name: j} for name, j in best.items()]
