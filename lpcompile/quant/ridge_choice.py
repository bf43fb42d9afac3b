"""How far weights may follow the mismatch of their inputs: chosen on one half of the samples, judged on the other."""

from collections.abc import Sequence

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.quant.mismatch import retargeted

RIDGES = (0.01, 0.1, 1.0)
BOTH_WAYS = 128  # inputs up to which each half judges the other
MOST_ROWS = 128  # that are tried
_MARGIN = 1e-6  # relative: less is rounding of float32


def chosen_ridge(rows: F32, halves: Sequence[tuple[F32, F32]]) -> float | None:
    """The ridge of RIDGES whose weights are nearest to the float outputs on samples that did not choose them.

    Args:
        rows: the real weights, (C_out, K), all of the layer; where one matrix serves all, some of them are tried.
        halves: H (G, K, K) and D (C_out, K) of two sets of samples, as `retargeted` takes them.

    Returns:
        None where the weights are best as they are, or where there is one set only.
    """
    if len(halves) < 2:
        return None
    if len(halves[0][0]) == 1:
        step = max(1, len(rows) // MOST_ROWS)
        rows = np.ascontiguousarray(rows[::step])
        halves = [(gram, cross[::step]) for gram, cross in halves]
    ways = [(0, 1), (1, 0)] if rows.shape[1] <= BOTH_WAYS else [(0, 1)]
    losses: F64 = np.zeros(len(RIDGES) + 1)
    for chosen, judged in ways:
        losses[-1] += output_distance(rows, *halves[judged])
        for i, ridge in enumerate(RIDGES):
            aimed = retargeted(rows, *halves[chosen], ridge=ridge)
            losses[i] += output_distance(aimed, *halves[judged])
    best = int(np.argmin(losses))
    as_they_are = losses[-1]
    return None if losses[best] >= as_they_are - _MARGIN * abs(as_they_are) else RIDGES[best]


def output_distance(found: F32, gram: F32, cross: F32) -> float:
    """E|W x - W^ x^|^2 summed over channels, less E|W x|^2: what W^ changes of it.

    Args:
        found: W^, (C_out, K).
        gram: H = E[x^ x^^T], (G, K, K).
        cross: D = E[(W x) x^^T], (C_out, K).
    """
    q, d = (a.astype(np.float64).reshape(len(gram), -1, found.shape[1]) for a in (found, cross))
    return float(((q @ gram - 2 * d) * q).sum())
