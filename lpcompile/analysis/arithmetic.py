"""What single operations cost: ACEv2 by widths, and picojoules at 45 nm. [neseem2024; notes pikelpn.md 2.1, 2.2].

    ACE     MAC i*j
    ACEv2   MAC, MUL, DIV i*j      ROOT i*i      ADD, CMP max(i, j)      SHIFT i      accumulating 0

The coefficients are those of the set `acev2/int-linear`; the paper's own table was not at hand, so a figure is named by
the set, with the options of `Coefficients` that differ. Floats count with their width, 32 or 16. An integer meets a
float as a float. Sign flips, bit logic and look-ups cost nothing and are counted apart.

Energies are those of [horowitz2014] for additions and multiplications, of [you2020] and [elhoushi2021] for shifts,
quoted and not checked again; integer widths that are not listed lie on the line of 3.1 fJ a unit of ACEv2, which fits
the listed ones within 3.0 to 4.1 fJ. Divisions and roots of floats count as multiplications, the least that they take.
Unlike ACEv2 energies charge the accumulation of a MAC: 32 bits, or the width of floats.
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
    """What is done.

    MAC and SHIFT_MAC accumulate; a SHIFT_MAC shifts where a MAC multiplies. A WIRED_SHIFT is by a number of bits that
    never changes, so it may be wires. FREE is what costs no arithmetic: sign flips, bit logic, look-ups.
    """

    MAC = "mac"
    SHIFT_MAC = "shift-mac"
    MULTIPLY = "multiply"
    DIVIDE = "divide"
    ROOT = "root"
    ADD = "add"
    SHIFT = "shift"
    WIRED_SHIFT = "wired-shift"
    COMPARE = "compare"
    FREE = "free"


_PRODUCTS = (Kind.MAC, Kind.MULTIPLY, Kind.DIVIDE)
_ACCUMULATE = (Kind.MAC, Kind.SHIFT_MAC)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        kind: of it.
        i, j: widths of its operands in bits; of shifts and roots i counts.
        floats: whether the operands are floats.
    """

    kind: Kind
    i: int
    j: int
    floats: bool = False

    @property
    def acev2(self) -> int:
        """Units of ACEv2 by the set `acev2/int-linear` without options."""
        if self.kind in _PRODUCTS:
            return self.i * self.j
        match self.kind:
            case Kind.ROOT:
                return self.i * self.i
            case Kind.SHIFT | Kind.SHIFT_MAC:
                return self.i
            case Kind.WIRED_SHIFT | Kind.FREE:
                return 0
        return max(self.i, self.j)

    @property
    def energy45nm_pj(self) -> float:
        """Picojoules at 45 nm and 0.9 V, accumulation included."""
        width = max(self.i, self.j)
        match self.kind:
            case Kind.MAC | Kind.MULTIPLY | Kind.DIVIDE | Kind.ROOT:
                multiplies = self.kind in (Kind.MAC, Kind.MULTIPLY)
                table = _FLOAT_MULTIPLY_PJ if self.floats else _INTEGER_MULTIPLY_PJ if multiplies else {}
                alike = self.floats or self.i == self.j
                energy = table.get(width, self._line_pj) if alike else self._line_pj
            case Kind.SHIFT | Kind.SHIFT_MAC:
                energy = _SHIFT_PJ.get(self.i, self._line_pj)
            case Kind.WIRED_SHIFT | Kind.FREE:
                energy = 0.0
            case _:
                energy = _add_pj(width, floats=self.floats)
        if self.kind not in _ACCUMULATE:
            return energy
        return energy + _add_pj(width if self.floats else ACCUMULATOR_BITS, floats=self.floats)

    @property
    def _line_pj(self) -> float:
        return FJ_PER_UNIT * 1e-3 * self.acev2


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A set of coefficients of ACEv2: `acev2/int-linear` and what is changed in it.

    Attributes:
        shift_coeff: units a bit of a shift; 0.6 to 1.3 fit energies.
        charge_accumulate: whether a MAC pays its addition, at the width of the accumulator or of the product if wider.
        wired_shift: whether a shift that never changes is free.
        count_compare: whether comparisons count.
    """

    shift_coeff: float = 1.0
    charge_accumulate: bool = False
    wired_shift: bool = True
    count_compare: bool = True

    @property
    def name(self) -> str:
        """Of the set, as reports print it: `acev2/int-linear{shift-coeff=0.6}`."""
        standard = Coefficients()
        shown = {"shift-coeff": f"{self.shift_coeff:g}"} if self.shift_coeff != standard.shift_coeff else {}
        for key in ("charge_accumulate", "wired_shift", "count_compare"):
            if getattr(self, key) != getattr(standard, key):
                shown[key.replace("_", "-")] = str(int(getattr(self, key)))
        changed = ",".join(f"{k}={v}" for k, v in shown.items())
        return f"{COEFFICIENTS}{{{changed}}}" if changed else COEFFICIENTS

    def acev2(self, operation: Operation) -> float:
        """Units of ACEv2 of an operation."""
        i, j = operation.i, operation.j
        match operation.kind:
            case Kind.SHIFT:
                return self.shift_coeff * i
            case Kind.WIRED_SHIFT:
                return 0.0 if self.wired_shift else self.shift_coeff * i
            case Kind.COMPARE:
                return float(operation.acev2) if self.count_compare else 0.0
            case Kind.MAC | Kind.SHIFT_MAC:
                product = float(i * j) if operation.kind is Kind.MAC else self.shift_coeff * i
                width = max(i, j) if operation.floats else max(ACCUMULATOR_BITS, i + j)
                return product + width if self.charge_accumulate else product
        return float(operation.acev2)


def _add_pj(width: int, *, floats: bool) -> float:
    table = _FLOAT_ADD_PJ if floats else _INTEGER_ADD_PJ
    return table.get(width, FJ_PER_UNIT * 1e-3 * width)
