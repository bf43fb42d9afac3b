"""A side path that is concatenated to its layer: h stands beside the codes of x, and one integer product reads both.

    q = clip(rne(f32(sum a8 (x - zero)) * f32 m_j) + 128, 0, 255)     (r,) codes
    acc = sum w8 (x - zero) + sum b8 (q - zero)                        one product of K + r inputs

q has a zero point of its own, so that x may have any, and even one that is found at run time. What the product takes
off instead is made good by columns whose A is zero, so that their code is always 128: with them the b8 of each output
sum to 0, and the second sum is sum b8 (q - 128), exactly. b8 is in units of the main path's scale: B has the more bits
the wider it is beside the weights, and what 8 bits do not hold is spread over columns that are alike.
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F32, F64, I8
from lpcompile.quant.side_path import LARGEST, MOST_RANK, SidePath

HIDDEN_ZERO = 128  # code of an h of zero
_MOST_MULTIPLIER = 255
_FINEST = 40


@dataclass(frozen=True, slots=True, eq=False)
class ConcatNumbers:
    """What a call holds of a path, with the columns that make good for zero points.

    Attributes:
        a: (r, K) int8.
        b: (C, r) int8, each row of sum 0.
        m: (r,) float32.
    """

    a: I8
    b: I8
    m: F32


def concat_path(path: SidePath, reach: F64) -> SidePath | None:
    """The path with h in 8 bits and B in units of the main path; None where that leaves nothing of it, or too much.

    Args:
        path: apart.
        reach: (r,) magnitude of `sum a8 (x - zero)` that the 8 bits of h hold.
    """
    alive = reach > 0
    if not alive.any():
        return None
    left = path.b.astype(np.float64) * path.multipliers.astype(np.float64) * float(path.unit)
    left, right, wanted = left[:, alive], path.a[alive], LARGEST / reach[alive]
    power = int(np.floor(np.log2(_MOST_MULTIPLIER / wanted.max())))
    if not 0 <= power <= _FINEST:
        return None
    n = np.clip(np.floor(wanted * 2.0**power), 1, _MOST_MULTIPLIER)
    whole = np.rint(left * (2.0**power / n)).astype(np.int64)
    copies = -(-np.abs(whole).max(axis=0, initial=0) // LARGEST)
    if not 0 < int(copies.sum()) <= MOST_RANK // 2:
        return None
    b8 = np.concatenate([_parts(whole[:, j], int(c)) for j, c in enumerate(copies)], axis=1)
    ones = np.ones(len(b8), np.uint8), np.ones((), np.float32)
    return SidePath(
        b8,
        np.repeat(right, copies, axis=0),
        np.repeat(n, copies).astype(np.uint8),
        np.asarray(2.0**-power, np.float32),
        *ones,
        apart=True,
        concat=True,
    )


def concat_numbers(path: SidePath) -> ConcatNumbers:
    """The numbers of a path that is concatenated to its layer."""
    left_over = -path.b.astype(np.int64).sum(axis=1)
    columns = int(-(-np.abs(left_over).max(initial=0) // LARGEST))
    b = np.concatenate([path.b, _parts(left_over, columns)], axis=1)
    a = np.concatenate([path.a, np.zeros((columns, path.a.shape[1]), np.int8)])
    m = path.multipliers.astype(np.float32) * path.unit
    return ConcatNumbers(a, b, np.concatenate([m, np.ones(columns, np.float32)]))


def hidden_codes(numbers: ConcatNumbers, x: np.ndarray) -> np.ndarray:
    """The codes (..., r) beside those of inputs less their zero point, (..., K) integers."""
    sums = (x.astype(np.float64) @ numbers.a.T.astype(np.float64)).astype(np.float32)
    scaled = np.rint(np.multiply(sums, numbers.m, dtype=np.float32)).astype(np.float64)
    return np.clip(scaled + HIDDEN_ZERO, 0, 255)


def _parts(whole: np.ndarray, count: int) -> I8:
    """(C, count) numbers of 8 bits that sum up to (C,) whole ones, each about as large as the others."""
    return ((whole[:, None] + np.arange(count)) // max(count, 1)).astype(np.int8)
