"""Posits of up to 8 bits: posit4 (es = 0), posit4es1, posit8, posit8es1, ...

After the sign (negative: two's complement first) stand a run of equal bits (regime k), es exponent bits e and
the fraction f; value = 2**(k * 2**es + e) * (1 + f). Code 0 is zero, code 2**(n-1) is NaR and never produced
[azizi2023, notes sec. 2.1].

Rounding is to the nearest value, ties to the even code, small values to zero. `_standard` names the rounding
of the posit standard instead: thresholds are the (n+1)-bit posits between two codes, and no non-zero value
becomes zero.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lpcompile.formats.arrays import F64
from lpcompile.formats.nearest import Nearest
from lpcompile.formats.table import TableFormat

_NAME = re.compile(r"posit(?P<bits>[3-8])(es(?P<es>[0-3]))?(?P<standard>_standard)?")


@dataclass(frozen=True)
class PositFormat(TableFormat):
    """posit(n, es)."""

    width: int
    es: int = 0
    rounding: Literal["nearest", "standard"] = "nearest"

    @property
    def name(self) -> str:
        """positN, with esE where es > 0 and _standard for the standard's rounding."""
        es = f"es{self.es}" if self.es else ""
        return f"posit{self.width}{es}{'_standard' if self.rounding == 'standard' else ''}"

    @property
    def bits(self) -> int:
        """Payload bits an element."""
        return self.width

    def _values(self) -> F64:
        return posit_values(self.width, self.es)

    @cached_property
    def nearest(self) -> Nearest:
        """The rounding onto `grid()`."""
        if self.rounding == "nearest":
            return Nearest(self._table)
        between = posit_values(self.width + 1, self.es)[1 : 2**self.width - 1 : 2]  # odd codes above zero
        between[0] = 0.0  # the least non-zero value already becomes minpos
        return Nearest(self._table, thresholds=np.concatenate([-between[::-1], between]))


def posit_values(width: int, es: int) -> F64:
    """(2**width,) value of each code of posit(width, es); NaR is NaN."""
    codes = np.arange(2**width)
    nar = 2 ** (width - 1)
    body = np.where(codes > nar, 2 * nar - codes, codes)  # of negative codes, their two's complement
    rest = width - 1
    lead = (body >> (rest - 1)) & 1
    run = np.zeros_like(codes)
    running = np.ones(codes.shape, bool)
    for position in range(rest - 1, -1, -1):
        running &= ((body >> position) & 1) == lead
        run += running
    regime = np.where(lead == 1, run - 1, -run)
    # Bits that fell off the end read as zero: shift them in from the right.
    tail_bits = np.maximum(rest - run - 1, 0)
    tail = (body & ((1 << tail_bits) - 1)) << (rest + es - tail_bits)
    exponent = tail >> rest
    fraction = (tail & ((1 << rest) - 1)) / (1 << rest)
    magnitude = np.ldexp(1.0 + fraction, regime * 2**es + exponent)
    values: F64 = np.where(codes > nar, -magnitude, magnitude)
    values[0], values[nar] = 0.0, np.nan
    return values


def parse(name: str) -> PositFormat | None:
    """The format of this name, or None where it is not one of this family."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return PositFormat(
        int(match["bits"]), int(match["es"] or 0), "standard" if match["standard"] else "nearest"
    )


NAMES = tuple(f"posit{n}{es}" for n in (4, 5, 6, 8) for es in ("", "es1", "es2"))
WHAT = {"posit": "posits: dense near 1, with a wide tail"}
