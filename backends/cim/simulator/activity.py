"""Counts of ones among the inputs of arrays: what energy and skipped planes depend on."""

import numpy as np
from numpy.typing import NDArray

_LANES = np.uint64(0x0101010101010101)
_POPCOUNT = np.array([b.bit_count() for b in range(256)], np.uint8)
_MOST = 255  # positions whose ones a byte can count


def ones_per_row(x: NDArray[np.uint8], bits: list[int]) -> NDArray[np.int64]:
    """In how many positions each bit of each row is one.

    Args:
        x: (positions, rows).
        bits: which bits.

    Returns:
        (rows, len(bits)).
    """
    positions, rows = x.shape
    width = -(-rows // 8) * 8
    padded = np.zeros((positions, width), np.uint8)
    padded[:, :rows] = x
    words = padded.view(np.uint64)
    found = np.zeros((rows, len(bits)), np.int64)
    for start in range(0, positions, _MOST):
        part = words[start : start + _MOST]
        for index, bit in enumerate(bits):
            # eight counters a word: none overflows into the next
            counters = ((part >> np.uint64(bit)) & _LANES).sum(axis=0, dtype=np.uint64)
            found[:, index] += counters.view(np.uint8)[:rows]
    return found


def busy_planes(x: NDArray[np.uint8], bits: list[int], blocks: list[slice]) -> int:
    """How many (position, block, bit) hold a one.

    Args:
        x: (positions, rows).
        bits: which bits.
        blocks: of rows.
    """
    mask = np.uint8(sum(1 << b for b in bits))
    total = 0
    for rows in blocks:
        total += int(_POPCOUNT[np.bitwise_or.reduce(x[:, rows], axis=1) & mask].sum(dtype=np.int64))
    return total
