"""How the multiplier of a requantisation is held: all its bits, a few, or a single one, which is a shift.

`M = a * s_w * s_x / s_y` is slope of a norm, dequantisation and requantisation in one. Held in b bits it is
`m * 2^e` with 2^(b-1) <= |m| < 2^b: off by at most 2^-b of itself. One bit is a power of two, off by up to sqrt(2)
unless the scales of the weights are chosen so that M lies on the grid anyway (`snap`).
[neseem2024, notes sec. 2.3, 2.4]

==============  ==================================================================================
dyadic-B        m has B bits and a sign (16: those of int16, 15 and a sign)
po2             a power of two
snap-dyadic-B,  as these, and the scales of the weights are chosen so that M is exactly that; weights
snap-po2        are rounded with them
==============  ==================================================================================
"""

import re

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F64

INT16_BITS = 15  # of magnitude
PO2 = 1
FEWEST_BITS = 8  # that an integer of a power of two is written in, so that what is added to it has fractions
_TEXT = re.compile(r"(?P<snap>snap-)?(?:po2|dyadic-(?P<bits>[2-9]|1[0-6]))", re.ASCII)


def multiplier_bits(held: str) -> int:
    """Bits of the magnitude of a multiplier, 1 for a shift.

    Args:
        held: a name of the table above, or empty for a target's own, which an int16 holds where it is an integer.

    Raises:
        FormatError: it is none.
    """
    if not held:
        return INT16_BITS
    found = _TEXT.fullmatch(held)
    if found is None:
        raise FormatError(
            f"no multiplier is held as {held!r}",
            hint="it is 'po2', 'dyadic-2' to 'dyadic-16', or one of these after 'snap-'",
        )
    return PO2 if found["bits"] is None else min(int(found["bits"]), INT16_BITS)


def integer_bits(held: str) -> int:
    """Bits that the integer of a multiplier is written in: those below the ones that it holds are zeros."""
    return max(multiplier_bits(held), FEWEST_BITS)


def is_snapped(held: str) -> bool:
    """Whether weights have scales that suit the multiplier."""
    return held.startswith("snap-")


def held_multipliers(scale: F64, held: str) -> F64:
    """Real multipliers as they are held, the nearest (powers of two: nearest logarithms); 0 stays 0."""
    return (
        nearest_po2(scale) if multiplier_bits(held) == PO2 else nearest_dyadic(scale, multiplier_bits(held))
    )


def held_line(scale: F64, shift: F64, held: str, centre: F64 | None = None) -> tuple[F64, F64]:
    """The line `scale * acc + shift` as a held multiplier and the shift that belongs to it.

    The shift is made anew from the held multiplier, so that at `centre` nothing changes: where a batch norm's slope is
    rounded to a_q, its shift becomes `beta - a_q * mean`.

    Args:
        scale: (C,) in steps of the result.
        shift: (C,) in the same.
        held: a name of the table above, or empty: the line stays.
        centre: (C,) in units of `acc`; None: the shift stays.
    """
    if not held:
        return scale, shift
    found = held_multipliers(scale, held)
    return found, shift if centre is None else shift + (scale - found) * centre


def nearest_po2(values: F64) -> F64:
    """`sign * 2^round(log2 |value|)`; zeros stay."""
    magnitude = np.abs(values)
    exponent = np.rint(np.log2(np.where(magnitude > 0, magnitude, 1.0)))
    return np.asarray(np.where(magnitude > 0, np.sign(values) * np.exp2(exponent), 0.0))


def nearest_dyadic(values: F64, bits: int) -> F64:
    """`m * 2^e` with |m| of so many bits, the nearest one."""
    m, e = dyadic(values, bits)
    return np.asarray(np.ldexp(m, e.astype(np.int32)))


def dyadic(values: F64, bits: int) -> tuple[F64, NDArray[np.int64]]:
    """The same as integers m (in floats) and exponents: `value ~ m * 2^e`, 2^(bits-1) <= |m| < 2^bits, or m = 0."""
    mantissa, exponent = np.frexp(values)
    m = np.rint(np.ldexp(mantissa, bits))
    full = np.abs(m) >= 2.0**bits
    m, exponent = np.where(full, m / 2, m), np.where(full, exponent + 1, exponent)
    return m, (exponent - bits).astype(np.int64)


def grid_around(values: F64, bits: int) -> tuple[F64, F64]:
    """The multipliers of so many bits next to positive ones: not above, and not below.

    Args:
        values: positive.
        bits: 1 for powers of two.
    """
    mantissa, exponent = np.frexp(values)  # mantissa in [1/2, 1)
    steps = np.ldexp(mantissa, bits)
    low, high = (np.ldexp(f(steps), exponent - bits) for f in (np.floor, np.ceil))
    return low, high
