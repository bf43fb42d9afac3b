"""What single operations cost: ACEv2 by widths, and picojoules at 45 nm. [neseem2024; notes pikelpn.md 2.1, 2.2].

    ACE     MAC i*j
    ACEv2   MAC, MUL i*j      ADD, CMP max(i, j)      SHIFT i      accumulating 0

The coefficients are those of the set `acev2/int-linear`; the paper's own table was not at hand, so a figure is named by
the set. Floats count with their width, 32 or 16. An integer meets a float as a float.

Energies are those of [horowitz2014] for additions and multiplications, of [you2020] and [elhoushi2021] for shifts,
quoted and not checked again; integer widths that are not listed lie on the line of 3.1 fJ a unit of ACEv2, which fits
the listed ones within 3.0 to 4.1 fJ. Unlike ACEv2 they charge the accumulation of a MAC: 32 bits, or the width of
floats.
"""

from dataclasses import dataclass
from enum import StrEnum

COEFFICIENTS = "acev2/int-linear"
FJ_PER_UNIT = 3.1
ACCUMULATOR_BITS = 32
_INTEGER_ADD_PJ = {8: 0.03, 16: 0.05, 32: 0.1}
_INTEGER_MULTIPLY_PJ = {8: 0.2, 32: 3.1}
_SHIFT_PJ = {8: 0.024, 16: 0.057, 32: 0.13}
_FLOAT_ADD_PJ = {16: 0.4, 32: 0.9}
_FLOAT_MULTIPLY_PJ = {16: 1.1, 32: 3.7}


class Kind(StrEnum):
    """What is done. MAC and SHIFT_MAC accumulate; a SHIFT_MAC shifts where a MAC multiplies."""

    MAC = "mac"
    SHIFT_MAC = "shift-mac"
    MULTIPLY = "multiply"
    ADD = "add"
    SHIFT = "shift"
    COMPARE = "compare"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        kind: of it.
        i, j: widths of its operands in bits; of shifts i counts.
        floats: whether the operands are floats.
    """

    kind: Kind
    i: int
    j: int
    floats: bool = False

    @property
    def acev2(self) -> int:
        """Units of ACEv2."""
        if self.kind in (Kind.MAC, Kind.MULTIPLY):
            return self.i * self.j
        return self.i if self.kind in (Kind.SHIFT, Kind.SHIFT_MAC) else max(self.i, self.j)

    @property
    def energy45nm_pj(self) -> float:
        """Picojoules at 45 nm and 0.9 V, accumulation included."""
        width = max(self.i, self.j)
        accumulation = _add_pj(width if self.floats else ACCUMULATOR_BITS, floats=self.floats)
        match self.kind:
            case Kind.MAC | Kind.MULTIPLY:
                table = _FLOAT_MULTIPLY_PJ if self.floats else _INTEGER_MULTIPLY_PJ
                alike = self.floats or self.i == self.j
                energy = table.get(width, self._line_pj) if alike else self._line_pj
            case Kind.SHIFT | Kind.SHIFT_MAC:
                energy = _SHIFT_PJ.get(self.i, self._line_pj)
            case _:
                energy = _add_pj(width, floats=self.floats)
        return energy + accumulation if self.kind in (Kind.MAC, Kind.SHIFT_MAC) else energy

    @property
    def _line_pj(self) -> float:
        return FJ_PER_UNIT * 1e-3 * self.acev2


def _add_pj(width: int, *, floats: bool) -> float:
    table = _FLOAT_ADD_PJ if floats else _INTEGER_ADD_PJ
    return table.get(width, FJ_PER_UNIT * 1e-3 * width)
