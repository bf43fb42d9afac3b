"""Small floating point: float4_e2m1fn, float8_e4m3fn, float8_e5m2, ... and an unsigned one for scales.

Sign, exponent field E, mantissa field m of M bits: (1 + m / 2**M) * 2**(E - bias), or m / 2**M * 2**(1 -
bias) where E = 0. `fn`: no infinities; `uz`: no -0, its code is the only NaN. `_240` is float8_e4m3fn kept
within +-240, the range that all devices with such a type share [gafni2025, notes sec. 2].
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lpcompile.formats.arrays import F64
from lpcompile.formats.table import TableFormat


@dataclass(frozen=True)
class FloatFormat(TableFormat):
    """A signed floating-point format of 1 + exponent_bits + mantissa_bits bits.

    Args:
        exponent_bits: width of the exponent field.
        mantissa_bits: width of the mantissa field.
        bias: of the exponent.
        specials: what the top codes mean: "ieee" (infinity and NaNs), "fn" (the last code is NaN),
            "none" (all finite), "fnuz" (the code of -0 is NaN).
        limit: codes of a larger magnitude are reserved; None for no such limit.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Literal["ieee", "fn", "none", "fnuz"]
    limit: int | None = None

    @property
    def name(self) -> str:
        """floatB_eEmM with fn or fnuz, and _LIMIT where there is one."""
        suffix = {"ieee": "", "fn": "fn", "none": "fn", "fnuz": "fnuz"}[self.specials]
        limit = "" if self.limit is None else f"_{self.limit}"
        return f"float{self.bits}_e{self.exponent_bits}m{self.mantissa_bits}{suffix}{limit}"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return 1 + self.exponent_bits + self.mantissa_bits

    def _values(self) -> F64:
        half = 2 ** (self.bits - 1)
        codes = np.arange(half)
        exponent, mantissa = codes >> self.mantissa_bits, codes & (2**self.mantissa_bits - 1)
        fraction = mantissa / 2**self.mantissa_bits + (exponent > 0)
        magnitude = np.ldexp(fraction, np.maximum(exponent, 1) - self.bias)
        if self.specials == "ieee":
            magnitude[exponent == 2**self.exponent_bits - 1] = np.nan
        elif self.specials == "fn":
            magnitude[-1] = np.nan
        if self.limit is not None:
            magnitude[magnitude > self.limit] = np.nan
        values = np.concatenate([magnitude, -magnitude])
        if self.specials == "fnuz":
            values[half] = np.nan
        return values


@dataclass(frozen=True)
class ScaleFormat(TableFormat):
    """`ufloat8_e4m4`, positive scales at 8 bits: (16 + m) * 2**e with e the upper and m the lower four bits.

    Every value is an integer below 2**20, so its product with a power of two is exact in float32. Neighbours
    differ by 1/16 to 1/31; the largest value is 63488 times the smallest.
    """

    @property
    def name(self) -> str:
        """ufloat8_e4m4."""
        return "ufloat8_e4m4"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return 8

    def _values(self) -> F64:
        codes = np.arange(256)
        values: F64 = np.ldexp(16.0 + (codes & 15), codes >> 4)
        return values


_FORMATS = {
    f.name: f
    for f in (
        FloatFormat(2, 1, 1, "none"),
        FloatFormat(4, 3, 7, "fn"),
        FloatFormat(4, 3, 7, "fn", limit=240),
        FloatFormat(4, 3, 8, "fnuz"),
        FloatFormat(5, 2, 15, "ieee"),
        FloatFormat(5, 2, 16, "fnuz"),
        ScaleFormat(),
    )
}
NAMES = tuple(_FORMATS)
WHAT = {
    "float": "small floating-point numbers",
    "ufloat": "small floating-point numbers without a sign, for scales",
}


def parse(name: str) -> TableFormat | None:
    """The format of this name, or None where it is not one of this family."""
    return _FORMATS.get(name)
