"""From a range to a scale and a zero point; zero is always exactly representable."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Range:
    """A closed range of real values that holds zero."""

    low: float
    high: float

    def union(self, other: "Range") -> "Range":
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def affine(r: Range, levels: int) -> tuple[float, int]:
    """Scale (a float32 value) and zero point of codes 0..levels-1; a one-sided range has zero at one end."""
    scales, zeros = affine_arrays(np.array([r.low]), np.array([r.high]), levels)
    return float(scales[0]), int(zeros[0])


def affine_arrays(lows: F64, highs: F64, levels: int) -> tuple[F64, F64]:
    """`affine` of many ranges: scales and zero points, (k,) each; without width they are 1 and 0."""
    widths = highs - lows
    usable = (widths > 0) & np.isfinite(widths)
    scales = np.where(usable, widths, 1.0) / np.where(usable, levels - 1, 1)
    scales = np.maximum(scales.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)
    zeros = np.clip(np.rint(-np.where(usable, lows, 0.0) / scales), 0, levels - 1)
    return scales, zeros
