"""A side path that runs apart in integers: two products and two dyadic requantisations. [architecture 3.6].

    h = clip((a8 (x - zero) * m_j + b_j) >> k_j, -H, H)      (r,), at most 16 bits
    acc += (b8 h * m + b) >> k                               in units of the main path's accumulator

m_j holds the multiplier n_j of the rank and as much of a common factor f as lets the largest h reach H; m is u / f. H
is so small that sums of b8 h are below 2^24, which float32 holds in any order, and no input clips h.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import I8
from lpcompile.quant.dyadic import (
    EXACT_IN_FLOAT32,
    Codes,
    Requant,
    accumulator_reach,
    affine_requant,
    requantised,
)
from lpcompile.quant.side_path import SidePath

I64 = NDArray[np.int64]
LARGEST_HIDDEN = (1 << 15) - 1
LARGEST_SUM = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class SideIntegers:
    """The integers of one side path.

    Attributes:
        a: (r, K) int8.
        b: (C, r) int8.
        hidden: of the r sums of the first product, to -H .. H.
        added: of the C sums of the second, to int32; one entry for all.
        reach: (C,) what it adds to an accumulator at most, in magnitude.
    """

    a: I8
    b: I8
    hidden: Requant
    added: Requant
    reach: I64


def side_integers(path: SidePath, x: Codes) -> SideIntegers:
    """The integers of a path.

    Args:
        path: apart.
        x: of the layer's input.

    Raises:
        FormatError: what it adds may leave int32.
    """
    largest = largest_hidden(path.b)
    least, most = accumulator_reach(path.a, x)
    n = path.multipliers.astype(np.float64)
    reach = float((np.maximum(-least, most) * n).max(initial=0))
    factor = (largest - 1) / max(reach, 1.0)
    hidden = affine_requant(n * factor, np.zeros(path.rank), least, most, Codes(0, -largest, largest))
    top = np.maximum(np.abs(requantised(least, hidden)), np.abs(requantised(most, hidden)))
    sums = np.abs(path.b.astype(np.int64)) @ top
    bounds = np.array([-int(sums.max(initial=0))]), np.array([int(sums.max(initial=0))])
    unit = np.array([np.float64(path.unit) / factor])
    added = affine_requant(unit, np.zeros(1), *bounds, Codes(0, -LARGEST_SUM - 1, LARGEST_SUM))
    most_added = np.maximum(np.abs(requantised(sums, added)), np.abs(requantised(-sums, added)))
    if int(most_added.max(initial=0)) >= LARGEST_SUM:
        raise FormatError(
            "a side path may add more than int32 holds", hint="leave the layer out with --layer-format"
        )
    bound = int(most_added.max(initial=0))  # what a proof may take for granted; nothing is clipped
    return SideIntegers(path.a, path.b, hidden, replace(added, low=-bound, high=bound), most_added)


def largest_hidden(b: I8) -> int:
    """H: the largest number that keeps sums of (C, r) factors times such numbers below 2^24."""
    by_row = np.abs(b.astype(np.int64)).sum(axis=1)
    return min(LARGEST_HIDDEN, (EXACT_IN_FLOAT32 - 1) // max(1, int(by_row.max(initial=0))))


def side_sums(side: SideIntegers, sums: I64) -> I64:
    """What a path adds, (..., C), to accumulators whose first products are (..., r)."""
    hidden = requantised(sums, side.hidden)
    return requantised(hidden @ side.b.T.astype(np.int64), side.added)
