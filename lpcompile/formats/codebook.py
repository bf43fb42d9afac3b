"""Formats given by a list of levels: nf4, pot4, learned codebooks.

- `nf4`: the 16 quantiles of a normal distribution that QLoRA published, as float32 [dettmers2023]. The
  compiled layer uses the image round(127 * grid).
- `pot4`: a sign and three bits of exponent, levels {0} and +-2**-e, e = 0..6 [neseem2024, notes sec. 2.5].
  The three bits ascend with the magnitude: 0 is zero, k is 2**(k - 7); the code of -0 is reserved. `pot4_log` rounds
  exponents, as the paper may, in place of values: it decides at 2**-(e + 1/2), and costs more of the values.
- `lut4:HEX`: a learned table of 16 int8 values, two hexadecimal digits each, in the order of the codes.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lpcompile.formats.arrays import F64, I8, frozen
from lpcompile.formats.nearest import Nearest
from lpcompile.formats.table import TableFormat

# fmt: off
_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)
# fmt: on
_LUT4 = re.compile(r"lut4:(?P<table>[0-9a-fA-F]{32})")


@dataclass(frozen=True)
class NormalFloat(TableFormat):
    """nf4."""

    @property
    def name(self) -> str:
        """nf4."""
        return "nf4"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return 4

    def _values(self) -> F64:
        return np.asarray(_NF4, np.float32).astype(np.float64)

    @cached_property
    def _image(self) -> tuple[I8 | None, float]:
        return frozen(np.rint(127 * self._table).astype(np.int8)), 1 / 127

    @property
    def image_exact(self) -> bool:
        """False: the published levels are no multiples of 1/127."""
        return False


@dataclass(frozen=True)
class PowerOfTwo(TableFormat):
    """pot4."""

    rounding: Literal["nearest", "log"] = "nearest"

    @property
    def name(self) -> str:
        """pot4, with _log for the rounding of exponents."""
        return "pot4" if self.rounding == "nearest" else "pot4_log"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return 4

    def _values(self) -> F64:
        magnitude = np.ldexp(1.0, np.arange(8) - 7)
        magnitude[0] = 0.0
        values = np.concatenate([magnitude, -magnitude])
        values[8] = np.nan
        return values

    @cached_property
    def nearest(self) -> Nearest:
        """The rounding onto `grid()`."""
        if self.rounding == "nearest":
            return Nearest(self._table)
        between = np.exp2(np.arange(-6, 1) - 0.5)
        return Nearest(self._table, thresholds=np.concatenate([-between[::-1], between]))


@dataclass(frozen=True)
class LearnedTable(TableFormat):
    """lut4: 16 int8 levels in the order of their codes; a layer carries its own, per tensor."""

    levels: bytes

    @classmethod
    def from_levels(cls, levels: I8) -> "LearnedTable":
        """The format of 16 int8 levels."""
        return cls(np.ascontiguousarray(levels, np.int8).reshape(16).tobytes())

    @property
    def name(self) -> str:
        """lut4: and the levels as two's complement bytes in hexadecimal."""
        return f"lut4:{self.levels.hex()}"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return 4

    @property
    def codebook_bits(self) -> int:
        """The table travels with the tensor."""
        return 8 * len(self.levels)

    def _values(self) -> F64:
        return np.frombuffer(self.levels, np.int8).astype(np.float64)


def parse(name: str) -> TableFormat | None:
    """The format of this name, or None where it is not one of this family."""
    if name == "nf4":
        return NormalFloat()
    if name in ("pot4", "pot4_log"):
        return PowerOfTwo("log" if name.endswith("_log") else "nearest")
    match = _LUT4.fullmatch(name)
    return None if match is None else LearnedTable(bytes.fromhex(match["table"]))


NAMES = ("nf4", "pot4")
WHAT = {
    "nf4": "quantiles of a normal distribution",
    "pot": "powers of two",
    "lut4": "a learned codebook",
}
