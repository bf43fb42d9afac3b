"""Integers and fixed point: intN, uintN, fixpN.

`intN` is two's complement of N bits; `intN_narrow` leaves out the lowest code, so that the range is
symmetric; `fixpN` is intN read with N - 1 fraction bits, range [-1, 1 - 2**(1-N)] [azizi2023, notes sec.
2.4].
"""

import re
from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F64
from lpcompile.formats.table import TableFormat

_NAME = re.compile(r"(?P<kind>int|uint|fixp)(?P<bits>[2-8])(?P<narrow>_narrow)?")


@dataclass(frozen=True)
class IntFormat(TableFormat):
    """Integers of `bits` bits, times 2**-fraction_bits."""

    width: int
    signed: bool = True
    narrow: bool = False
    fraction_bits: int = 0

    @property
    def name(self) -> str:
        """intN, uintN, fixpN, each but uintN perhaps with _narrow."""
        kind = "fixp" if self.fraction_bits else "int" if self.signed else "uint"
        return f"{kind}{self.width}{'_narrow' if self.narrow else ''}"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return self.width

    def _values(self) -> F64:
        codes = np.arange(2**self.width)
        half = 2 ** (self.width - 1)
        values = (((codes + half) % (2 * half)) - half if self.signed else codes).astype(np.float64)
        if self.narrow:
            values[half] = np.nan
        return np.ldexp(values, -self.fraction_bits)


def parse(name: str) -> IntFormat | None:
    """The format of this name, or None where it is not one of this family."""
    match = _NAME.fullmatch(name)
    if match is None or (match["kind"] == "uint" and match["narrow"]):
        return None
    width = int(match["bits"])
    return IntFormat(
        width=width,
        signed=match["kind"] != "uint",
        narrow=match["narrow"] is not None,
        fraction_bits=width - 1 if match["kind"] == "fixp" else 0,
    )


NAMES = (
    *(f"int{n}" for n in range(2, 9)),
    *(f"uint{n}" for n in range(2, 9)),
    *(f"fixp{n}" for n in range(2, 9)),
    "int4_narrow",
    "int8_narrow",
)
WHAT = {
    "int": "two's complement integers",
    "uint": "unsigned integers from 0",
    "fixp": "integers read as binary fractions",
}
