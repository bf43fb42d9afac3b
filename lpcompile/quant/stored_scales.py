"""Channel scales as they are stored: float32, or 8 bits with one power of two for the tensor.

The scale is quantised first and the weights with the quantised scale, so that its error costs resolution, not
gain [neseem2024, notes sec. 2.4]. `ufloat8_e4m4` holds (16 + m) * 2**e; the power of two puts the largest
scale of the tensor in reach, and scales below 1/63488 of it are raised to that.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64, U8
from lpcompile.formats.base import resolve
from lpcompile.quant.granularity import PerTensor
from lpcompile.quant.qtensor import QuantizedTensor

_STEP = 1.04  # between float32 candidates; the 8-bit ones lie 1.03 to 1.06 apart


class ScaleGrid(Protocol):
    """The values that a channel scale can take."""

    def at_least(self, scales: F64) -> F32:
        """(R,) the smallest values not below the given ones (saturating)."""

    def ladder(self, centres: F64, low: float, high: float) -> F32:
        """(n, R) ascending values of the grid that cover centres * low .. centres * high."""

    def around(self, scales: F64) -> Sequence[F32]:
        """The values (R,) of the grid next to the given ones."""

    def store(self, scales: F32) -> F32 | QuantizedTensor:
        """What is written down for values of the grid."""


class Float32Scales:
    """Any float32."""

    def at_least(self, scales: F64) -> F32:
        """(R,) float32 values not below the given ones."""
        rounded = scales.astype(np.float32)
        low = rounded < scales
        rounded[low] = np.nextafter(rounded[low], np.float32(np.inf))
        return rounded

    def ladder(self, centres: F64, low: float, high: float) -> F32:
        """(n, R) values 4 % apart."""
        count = int(np.ceil(np.log(high / low) / np.log(_STEP))) + 1
        values: F32 = (centres * np.geomspace(low, high, count)[:, None]).astype(np.float32)
        return values

    def around(self, scales: F64) -> Sequence[F32]:
        """The nearest float32."""
        return (scales.astype(np.float32),)

    def store(self, scales: F32) -> F32:
        """The values."""
        return scales


class Ufloat8Scales:
    """Values of ufloat8_e4m4 times one power of two.

    Args:
        largest: the largest scale that must be in reach.
    """

    def __init__(self, largest: float) -> None:
        self._format = resolve("ufloat8_e4m4")
        self._unit = float(2.0 ** np.clip(np.ceil(np.log2(largest / self._format.max)), -126, 100))
        self._values: F32 = (self._format.table() * self._unit).astype(np.float32)

    def at_least(self, scales: F64) -> F32:
        """(R,) the smallest values of the grid not below the given ones."""
        return np.take(self._values, self._code_at_least(scales))

    def ladder(self, centres: F64, low: float, high: float) -> F32:
        """(n, R) all values of the grid between the ends, from one below to one above them."""
        first = self._code_at_least(centres * low).astype(np.int64) - 1
        last = self._code_at_least(centres * high).astype(np.int64)
        codes = first + np.arange(int(np.max(last - first, initial=0)) + 1)[:, None]
        values: F32 = np.take(self._values, np.clip(codes, 0, 255))
        return values

    def around(self, scales: F64) -> Sequence[F32]:
        """The next smaller value and the next larger one."""
        above = self._code_at_least(scales)
        return np.take(self._values, np.maximum(above, 1) - np.uint8(1)), np.take(self._values, above)

    def store(self, scales: F32) -> QuantizedTensor:
        """Codes and the power of two."""
        return QuantizedTensor(
            self._code_at_least(scales.astype(np.float64)),
            self._format,
            PerTensor(),
            np.asarray(self._unit, np.float32),
        )

    def _code_at_least(self, scales: F64) -> U8:
        codes = np.searchsorted(self._values.astype(np.float64), scales, side="left")
        return np.minimum(codes, 255).astype(np.uint8)


SCALE_FORMATS: Sequence[str] = ("float32", "ufloat8_e4m4")


def scale_grid(scale_format: str, largest: float) -> ScaleGrid:
    """The grid of a scale format.

    Args:
        scale_format: "float32" or "ufloat8_e4m4".
        largest: the largest scale of the tensor, before quantisation.

    Raises:
        FormatError: no such scale format.
    """
    if scale_format == "float32":
        return Float32Scales()
    if scale_format == "ufloat8_e4m4":
        return Ufloat8Scales(largest)
    raise FormatError(
        f"channel scales cannot be stored as {scale_format!r}", hint="use 'float32' or 'ufloat8_e4m4'"
    )
