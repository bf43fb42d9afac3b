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
        halves: H and C of two sets of samples, (G, K, K) each, as `retargeted` takes them.

    Returns:
        None where the weights are best as they are, or where there is one set only.
    """
    if len(halves) < 2:
        return None
    if len(halves[0][0]) == 1:
        rows = np.ascontiguousarray(rows[:: max(1, len(rows) // MOST_ROWS)])
    ways = [(0, 1), (1, 0)] if rows.shape[1] <= BOTH_WAYS else [(0, 1)]
    losses: F64 = np.zeros(len(RIDGES) + 1)
    for chosen, judged in ways:
        losses[-1] += output_distance(rows, rows, *halves[judged])
        for i, ridge in enumerate(RIDGES):
            aimed = retargeted(rows, *halves[chosen], ridge=ridge)
            losses[i] += output_distance(rows, aimed, *halves[judged])
    best = int(np.argmin(losses))
    as_they_are = losses[-1]
    return None if losses[best] >= as_they_are - _MARGIN * abs(as_they_are) else RIDGES[best]


def output_distance(rows: F32, found: F32, gram: F32, cross: F32) -> float:
    """E|W x - W^ x^|^2 summed over channels, less E|W x|^2: what W^ changes of it.

    Args:
        rows: W, (C_out, K).
        found: W^, of that shape.
        gram: H = E[x^ x^^T], (G, K, K).
        cross: C = E[x x^^T], (G, K, K).
    """
    w, q = (a.astype(np.float64).reshape(len(gram), -1, rows.shape[1]) for a in (rows, found))
    return float(((q @ gram - 2 * (w @ cross)) * q).sum())
