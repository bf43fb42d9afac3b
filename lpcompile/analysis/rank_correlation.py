"""Do two figures put layers into the same order?"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def ranks(x: F64) -> F64:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def spearman(a: F64, b: F64) -> float:
    """Spearman's rank correlation; NaN where fewer than two values differ, or a value is NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    ra, rb = ranks(a), ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    norm = float(np.sqrt(np.vdot(ra, ra) * np.vdot(rb, rb)))
    return float(np.vdot(ra, rb)) / norm if norm > 0 else float("nan")
