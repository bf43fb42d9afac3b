"""A side path that is concatenated to its layer: h stands beside the codes of x, and one integer product reads both.

    q = clip(rne(f32(sum a8 (x - zero)) * f32 m_j) + 128, 0, 255)     (r,) codes
    acc = sum w8 (x - zero) + sum b8 (q - zero)                        one product of K + r inputs

q has a zero point of its own, so that x may have any, and even one that is found at run time. What the product takes
off instead is made good by columns whose A is zero, so that their code is always 128: with them the b8 of each output
sum to 0, and the second sum is sum b8 (q - 128), exactly. b8 is in units of the main path's scale, so h and b8 share
the bits of what they reach together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64, I8, Real
from lpcompile.quant.accumulators import LARGEST_CODE
from lpcompile.quant.neighbours import INT16_MAX, pair_limit, pair_sums, pairs_saturate
from lpcompile.quant.side_path import LARGEST, MOST_RANK, SidePath, checked, in_units

HIDDEN_ZERO = 128  # code of an h of zero
WITHIN_PAIRS = pair_limit() // 2  # two of them stay within int16 beside each other
_MOST_MULTIPLIER = 255
_FINEST = 40


@dataclass(frozen=True, slots=True, eq=False)
class HiddenSample:
    """Some of what a layer reads.

    Attributes:
        codes: (P, K) int16, less their zero point.
        step: the scale of the input, as a root mean square where it is found at run time.
        largest: magnitude that factors beside it may have.
    """

    codes: NDArray[np.int16]
    step: float
    largest: int = LARGEST

    def of(self, a: I8) -> tuple[F64, F64]:
        """Largest magnitude and root mean square of the sums that (r, K) factors make of it, (r,) each."""
        sums = self.codes.astype(np.float32) @ a.T.astype(np.float32)
        return np.abs(sums).max(axis=0, initial=0).astype(np.float64), np.sqrt(
            np.square(sums, dtype=np.float64).mean(axis=0)
        )


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


def concat_path(b: Real, a: Real, scale: F32, sample: HiddenSample, *, columns: int = 1) -> SidePath | None:
    """Factors in the bits that one product leaves them; None where nothing is left of them.

    A rank is a product of three: a8 has all 8 bits, and what the product may reach is shared by h and b8, so that both
    roundings lose alike. A rank that reaches farther than they can together takes more columns, and is held in part
    where these are not enough: what it loses by the rounding of h grows as it does.

    Args:
        b: (C, r).
        a: (r, K).
        scale: (C,) or () of the main path.
        sample: what the layer reads.
        columns: that a rank may take.

    Raises:
        FormatError: a rank above MOST_RANK, numbers that are not finite.
    """
    checked(b, a)
    left, right, top = in_units(b, scale), np.asarray(a, np.float64), sample.largest
    largest = np.abs(right).max(axis=1, initial=0)
    alive = (largest > 0) & (np.abs(left).max(axis=0, initial=0) > 0)
    left, right, largest = left[:, alive] * (largest[alive] / top), right[alive], largest[alive]
    a8 = np.rint(right * (top / largest)[:, None]).astype(np.int8)
    reach, size = sample.of(a8)
    alive = reach > 0
    left, a8, reach, size = left[:, alive], a8[alive], reach[alive], size[alive]
    if not len(a8):
        return None
    finest = LARGEST / reach
    even = np.sqrt(np.sqrt(np.square(left).mean(axis=0)) / size)
    wanted = np.minimum(finest, np.maximum(even, np.abs(left).max(axis=0) / top))
    power = int(np.floor(np.log2(_MOST_MULTIPLIER / wanted.max())))
    if not 0 <= power <= _FINEST:
        return None
    n = np.clip(np.floor(wanted * 2.0**power), 1, _MOST_MULTIPLIER)
    whole = left * (2.0**power / n)
    whole = np.rint(whole * np.minimum(1, columns * top / np.abs(whole).max(axis=0))).astype(np.int64)
    copies = -(-np.abs(whole).max(axis=0) // top)
    if not 0 < int(copies.sum()) <= MOST_RANK:
        return None
    b8 = np.concatenate([_parts(whole[:, j], int(count)) for j, count in enumerate(copies)], axis=1)
    ones = np.ones(len(b8), np.uint8), np.ones((), np.float32)
    numbers = np.repeat(a8, copies, axis=0), np.repeat(n, copies).astype(np.uint8)
    return SidePath(b8, *numbers, np.asarray(2.0**-power, np.float32), *ones, apart=True, concat=True)


def concat_numbers(path: SidePath) -> ConcatNumbers:
    """The numbers of a path that is concatenated to its layer."""
    left_over = -path.b.astype(np.int64).sum(axis=1)
    columns = int(-(-np.abs(left_over).max(initial=0) // WITHIN_PAIRS))
    b = np.concatenate([path.b, _parts(left_over, columns)], axis=1)
    a = np.concatenate([path.a, np.zeros((columns, path.a.shape[1]), np.int8)])
    m = path.multipliers.astype(np.float32) * path.unit
    return ConcatNumbers(a, b, np.concatenate([m, np.ones(columns, np.float32)]))


def concat_pairs_saturate(path: SidePath, w8: I8, largest_code: int = LARGEST_CODE) -> bool:
    """Whether two neighbours in a product with the path can leave int16, in which some CPUs add them.

    Args:
        path: concatenated.
        w8: (C, K) image of the main path.
        largest_code: of the inputs; the numbers of the path have 8 bits.
    """
    numbers = concat_numbers(path)
    parts = w8.astype(np.int64) * largest_code, numbers.b.astype(np.int64) * LARGEST_CODE
    products = np.concatenate(parts, axis=1)
    order = np.arange(products.shape[1])
    most = pair_sums(np.maximum(products, 0), order).max(initial=0)
    least = pair_sums(np.minimum(products, 0), order).min(initial=0)
    of_a = pairs_saturate(numbers.a, np.arange(numbers.a.shape[1]), largest_code)
    return of_a or most > INT16_MAX or least < -INT16_MAX - 1


def hidden_codes(numbers: ConcatNumbers, x: np.ndarray) -> np.ndarray:
    """The codes (..., r) beside those of inputs less their zero point, (..., K) integers."""
    sums = (x.astype(np.float64) @ numbers.a.T.astype(np.float64)).astype(np.float32)
    scaled = np.rint(np.multiply(sums, numbers.m, dtype=np.float32)).astype(np.float64)
    return np.clip(scaled + HIDDEN_ZERO, 0, 255)


def _parts(whole: np.ndarray, count: int) -> I8:
    """(C, count) numbers of 8 bits that sum up to (C,) whole ones, each about as large as the others."""
    return ((whole[:, None] + np.arange(count)) // max(count, 1)).astype(np.int8)
