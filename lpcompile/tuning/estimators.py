"""Gradients of a rounding, which has none of its own: slopes that stand for dQ/dw, and from them dQ/ds.

Between two neighbouring levels a and b of a table, with D = b - a, m = (a + b) / 2 and x = w / s:

==========  =============================================================  ==========================
`ste`       1                                                              the straight-through one
`tanh`      (k/2) sech^2(k (x - m) / D)                                    steep at the threshold m
`linear`    2 tanh(k/2) (1 - |x - m| / (D/2))                              a triangle, 0 at the levels
==========  =============================================================  ==========================

`tanh` and `linear` have the mean tanh(k/2) over a cell, 0.9866 at the steepness k = 5: nearly that of `ste`, and
no scale of their own. Outside the table the slope is 0 (clipped) or 1 (so that weights can come back).
[mixed-posit 2.9, with both of its repairs]

W^ = s v(w / s) has dW^/ds = v - x v'(x): with the straight-through slope that is round(x) - x inside and the end
of the grid outside, the rule of learned step sizes. [esser2020, notes 7]
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lpcompile import option_checks
from lpcompile.formats.arrays import F32

ESTIMATORS = ("ste", "tanh", "linear", "lsq")
OUTSIDE = ("clipped", "through")


@dataclass(frozen=True, slots=True)
class Cells:
    """Where weights lie in a table, all in units of their scale, of one shape.

    Attributes:
        x: w / s.
        low, high: the neighbouring levels with low <= x < high; the outermost two where x lies outside.
        inside: whether x lies between the smallest and the largest level, these included.
        value: the level that x is rounded to.
    """

    x: F32
    low: F32
    high: F32
    inside: np.ndarray
    value: F32


@dataclass(frozen=True, slots=True)
class Estimator:
    """A slope by its name.

    Attributes:
        name: one of ESTIMATORS; "lsq" has the slope of "ste" and asks for learned scales.
        steepness: k above.
        outside: one of OUTSIDE.
    """

    name: str = "ste"
    steepness: float = 5.0
    outside: str = "clipped"

    def __post_init__(self) -> None:
        option_checks.one_of("estimator", self.name, ESTIMATORS)
        option_checks.one_of("outside", self.outside, OUTSIDE)
        option_checks.positive("steepness", self.steepness)

    @property
    def learns_scales(self) -> bool:
        """Whether the estimator is one of learned step sizes."""
        return self.name == "lsq"

    def slope(self, cells: Cells) -> F32:
        """What stands for dQ/dw, float32, in the shape of the cells."""
        found = _SLOPES[self.name](cells, self.steepness)
        return np.where(cells.inside, found, np.float32(self.outside == "through")).astype(np.float32)

    def scale_slope(self, cells: Cells, slope: F32) -> F32:
        """What stands for dQ/ds of each element, v - x v'(x), for a slope of `slope(cells)`."""
        return np.asarray(cells.value - cells.x * slope, np.float32)


def _straight(cells: Cells, _steepness: float) -> F32:
    return np.ones_like(cells.x)


def _offset(cells: Cells) -> F32:
    """(x - m) / D, in -1/2..1/2."""
    return np.asarray((cells.x - (cells.low + cells.high) / 2) / (cells.high - cells.low), np.float32)


def _tanh(cells: Cells, steepness: float) -> F32:
    bent = np.tanh(np.float32(steepness) * _offset(cells))
    return np.asarray(np.float32(steepness / 2) * (1 - bent * bent), np.float32)


def _linear(cells: Cells, steepness: float) -> F32:
    return np.asarray(np.float32(2 * np.tanh(steepness / 2)) * (1 - 2 * np.abs(_offset(cells))), np.float32)


_SLOPES: dict[str, Callable[[Cells, float], F32]] = {
    "ste": _straight,
    "lsq": _straight,
    "tanh": _tanh,
    "linear": _linear,
}
