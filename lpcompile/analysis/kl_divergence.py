"""How much a histogram tells after quantisation: KL(clipped || quantised), for any levels and any zero point.

The clipped histogram holds the mass beyond the range in its outermost bins; the quantised one spreads the mass that a
code has inside the range evenly over the filled bins that become that code. The bin of zero is left out: zero is a
code of every range, and after a Relu its mass would outweigh everything else. [migacz2017]
"""

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.affine import affine_arrays

F64 = NDArray[np.float64]


def divergences(centres: F64, weights: F64, lows: F64, highs: F64, levels: int) -> F64:
    """Nats for each of k candidate ranges, (k,); infinite where a range holds no bin.

    Args:
        centres: of the filled bins, ascending, (m,).
        weights: of these bins, (m,).
        lows: ends of the ranges, (k,).
        highs: the other ends, (k,).
        levels: of the quantiser.
    """
    kept = np.ones(len(centres), bool)
    kept[np.searchsorted(centres, 0.0) :][:1] = False
    x, w = centres[kept], weights[kept]
    if not len(x):
        return np.zeros(len(lows))
    scales, zeros = affine_arrays(lows, highs, levels)
    codes = np.rint(x / scales[:, None]) + zeros[:, None]
    inside = (codes >= 0) & (codes <= levels - 1)
    rows = np.arange(len(lows))
    mass = np.where(inside, w, 0.0)
    clipped = mass.copy()
    first, last = inside.argmax(1), len(x) - 1 - inside[:, ::-1].argmax(1)
    running = np.concatenate([[0.0], np.cumsum(w)])
    clipped[rows, first] += running[first]
    clipped[rows, last] += running[-1] - running[last + 1]
    cell = (rows[:, None] * levels + np.clip(codes, 0, levels - 1)).astype(np.intp)
    cells = len(lows) * levels
    of_code = np.bincount(cell[inside], mass[inside], cells)
    filled = np.bincount(cell[inside], minlength=cells)
    spread = np.zeros_like(mass)
    spread[inside] = of_code[cell[inside]] / filled[cell[inside]]
    spread /= np.maximum(spread.sum(1, keepdims=True), np.finfo(float).tiny)
    clipped /= max(float(running[-1]), np.finfo(float).tiny)
    terms = np.zeros_like(mass)
    use = inside & (clipped > 0)
    terms[use] = clipped[use] * np.log(clipped[use] / spread[use])
    return np.where(inside.any(1), terms.sum(1), np.inf)
