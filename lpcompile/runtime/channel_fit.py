"""Whether a tensor of one model is that of another up to a scale and a shift of each channel.

Norms that were folded into a layer, and channels that were scaled between layers, leave the name of a tensor and change
its values so. With b = p_c a + q_c fitted by least squares, the residual of a channel is S_bb - S_ab^2 / S_aa, S being
centred sums of products.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.runtime.compare import EXACT_DB

F64 = NDArray[np.float64]
LEAST = 16  # values of a channel, below which two parameters fit whatever there is


@dataclass
class ChannelFit:
    """The fit of one tensor over the calls seen so far, along its second and its last axis."""

    _sums: dict[int, F64] = field(default_factory=dict)

    def update(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Take in the tensor of one call, of the same shape in both models."""
        if (
            a.ndim < 2
            or a.dtype.kind != "f"
            or a.size == 0
            or not (np.isfinite(a).all() and np.isfinite(b).all())
        ):
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        for axis in {1, a.ndim - 1}:
            others = tuple(i for i in range(a.ndim) if i != axis)
            size = np.full(a.shape[axis], a.size / a.shape[axis])
            rows = [v.sum(others) for v in (x, y, x * x, x * y, y * y)]
            found = np.array([size, *rows])
            known = self._sums.get(axis)
            if known is None:
                self._sums[axis] = found
            elif known.shape == found.shape:
                known += found

    @property
    def fit_db(self) -> float:
        """SQNR of the best fit, of what varies within channels; -EXACT_DB where too little was seen."""
        return max((_fit_db(s) for s in self._sums.values() if s[0, 0] >= LEAST), default=-EXACT_DB)


def _fit_db(sums: F64) -> float:
    n, a, b, aa, ab, bb = sums
    saa, sab, sbb = aa - a * a / n, ab - a * b / n, bb - b * b / n
    explained = np.divide(sab * sab, saa, out=np.zeros_like(saa), where=saa > 0)
    signal, left = float(sbb.sum()), float(np.maximum(sbb - explained, 0).sum())
    if signal <= 0:
        return -EXACT_DB
    return EXACT_DB if left <= 0 else float(np.clip(10 * math.log10(signal / left), -EXACT_DB, EXACT_DB))
