"""Weights as one-bit columns: which planes a layer needs, and the bits that are stored. [cim-machine 1.5, 2].

`w = sum_j coefficients[j] * bit_j`, coefficients signed powers of two: the shift-add that follows the converter is
digital.  Two's complement over the range that a layer's integers really span is the default; over the values of the
4-bit formats no set of signed powers of two has fewer planes (docs/decisions/0020).

A column of a block with more ones than the converter tells is stored inverted, `popcount = n_on - popcount_stored`:
then a column of 2^(adc+1) - 1 rows never exceeds the converter's 2^adc - 1.  Columns that pass as they are stay so,
because the correction costs energy.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import PlaneSet
from lpcompile.errors import EncodingError

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def twos_complement(low: int, high: int) -> PlaneSet:
    """The narrowest two's complement planes that hold every integer in low..high; unsigned where low >= 0."""
    bits = max(1, high.bit_length())
    if low >= 0:
        return PlaneSet(f"unsigned{bits}", tuple(1 << j for j in range(bits)))
    bits = max(bits + 1 if high > 0 else 1, (-low - 1).bit_length() + 1)
    return PlaneSet(f"twos{bits}", (*(1 << j for j in range(bits - 1)), -(1 << (bits - 1))))


def planes_of(weights: I8) -> PlaneSet:
    """The planes of a layer's int8 weights (any shape)."""
    if not weights.size:
        return twos_complement(0, 1)
    return twos_complement(int(weights.min()), int(weights.max()))


def cells_of(planes: PlaneSet, bits_per_cell: int) -> int:
    """Cells that one weight takes: planes of one sign share a cell, a sign plane has one of its own."""
    negative = sum(c < 0 for c in planes.coefficients)
    positive = len(planes.coefficients) - negative
    return -(-positive // bits_per_cell) + -(-negative // bits_per_cell)


@functools.cache
def value_table(planes: PlaneSet) -> dict[int, int]:
    """Every value that the planes can hold, and the bits that give it, bit j for plane j: the proof by enumeration."""
    found: dict[int, int] = {}
    for mask in range(1 << len(planes.coefficients)):
        value = sum(c for j, c in enumerate(planes.coefficients) if mask >> j & 1)
        found.setdefault(value, mask)
    return found


def plane_bits(weights: I8, planes: PlaneSet) -> U8:
    """Bits of int8 weights (K, n) as (P, K, n).

    Raises:
        EncodingError: the planes cannot hold a weight.
    """
    masks = np.full(256, -1, np.int32)
    for value, mask in value_table(planes).items():
        if -128 <= value <= 127:
            masks[value & 0xFF] = mask
    found = masks[weights.view(np.uint8)]
    if found.size and found.min() < 0:
        raise EncodingError(f"planes '{planes.name}' cannot hold every weight", hint="use wider planes")
    shifts = np.arange(len(planes.coefficients), dtype=np.int32).reshape(-1, *[1] * weights.ndim)
    bits: U8 = ((found.astype(np.uint8)[None] >> shifts.astype(np.uint8)) & np.uint8(1)).astype(np.uint8)
    return bits


@dataclass(frozen=True)
class StoredPlanes:
    """What a group holds.

    Attributes:
        bits: as stored, (P, K, n), 0 or 1.
        inverted: (blocks, P, n), 1 where a block's column is stored inverted.
        ones: the largest number of stored ones of each column of a block, (blocks, P, n).
        block_rows: rows of the longest block.
    """

    bits: U8
    inverted: U8
    ones: NDArray[np.int32]
    block_rows: int

    def lossless(self, adc_max: int, levels: int = 1) -> bool:
        """Whether no column of a block can exceed the converter's range.

        Args:
            adc_max: largest count that a converter tells.
            levels: largest product of a cell and an input in one cycle.
        """
        return not self.ones.size or int(self.ones.max()) * levels <= adc_max

    def packed(self, multipliers: U8 | None = None) -> bytes:
        """The group's part of the weights section."""
        parts = [
            np.packbits(self.bits.reshape(-1), bitorder="little").tobytes(),
            np.packbits(self.inverted.reshape(-1), bitorder="little").tobytes(),
        ]
        return b"".join([*parts, b"" if multipliers is None else multipliers.tobytes()])


def store_planes(weights: I8, planes: PlaneSet, block_rows: int, most: int | None) -> StoredPlanes:
    """The stored bits of int8 weights (K, n), blocks of `block_rows` rows.

    Args:
        weights: (K, n).
        planes: that hold them.
        block_rows: rows that are read at a time.
        most: ones that a column of a block may hold; columns with more are stored inverted. None inverts none.
    """
    bits = plane_bits(weights, planes)
    rows = weights.shape[0]
    starts = np.arange(0, rows, block_rows)
    ones = np.add.reduceat(bits, starts, axis=1, dtype=np.int32).transpose(1, 0, 2)  # (blocks, P, n)
    sizes = np.diff([*starts, rows]).astype(np.int32).reshape(-1, 1, 1)
    needed = np.zeros_like(ones, bool) if most is None else (ones > most) & (2 * ones > sizes)
    inverted = needed.astype(np.uint8)
    if needed.any():
        bits ^= np.repeat(inverted, sizes.reshape(-1), axis=0).transpose(1, 0, 2)
        ones = np.where(inverted, sizes - ones, ones)
    return StoredPlanes(bits, inverted, ones, min(block_rows, rows))
