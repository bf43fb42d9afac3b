"""Sums of two neighbouring products, which x86 CPUs without VNNI make in int16.

Their kernels multiply u8 codes x by s8 weights w and add x0 w0 + x1 w1 with saturation before the sum goes to int32.
With codes up to c no pair leaves int16 where |w0 + w1| <= floor(32767 / c) for weights of one sign: 128 for 8 bits.
[onnxruntime, quantization guide, `reduce_range`, which takes a bit from every weight; here only neighbours matter]

Which weights are neighbours is a matter of the kernel: `order` lists the columns of a row as it goes through them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, I8
from lpcompile.quant.accumulators import LARGEST_CODE

INT16_MAX = 2**15 - 1

Order = NDArray[np.intp]


def pair_limit(largest_code: int = LARGEST_CODE) -> int:
    """The largest |w0 + w1| that no codes up to this one bring out of int16."""
    return INT16_MAX // largest_code


def pair_sums(rows: NDArray[Any], order: Order) -> NDArray[Any]:
    """w0 + w1 of neighbours, (R, K // 2), in the type of the rows; one that is left over has no neighbour.

    Args:
        rows: (R, K) weights; integers of more than 8 bits, as sums need them.
        order: (K,) columns as the kernel goes through them.
    """
    paired = rows[:, order[: len(order) // 2 * 2]]
    return np.asarray(paired[:, 0::2] + paired[:, 1::2])


def pairs_saturate(w8: I8, order: Order, largest_code: int = LARGEST_CODE) -> bool:
    """Whether two neighbouring products of a row can leave int16.

    Args:
        w8: (R, K) integers of a layer's weights.
        order: (K,) columns as the kernel goes through them.
        largest_code: of the inputs.
    """
    sums = pair_sums(w8.astype(np.int16), order)
    return int(np.abs(sums).max(initial=0)) > pair_limit(largest_code)


def least_pair_scales(rows: F32, order: Order, largest_code: int = LARGEST_CODE) -> F32:
    """Scales of int8 rows that keep neighbours within int16 when each is rounded to nearest, (R,).

    Args:
        rows: (R, K) float weights.
        order: (K,) columns as the kernel goes through them.
        largest_code: of the inputs.
    """
    largest = np.abs(pair_sums(rows, order)).max(axis=1, initial=0)
    return np.asarray(largest / np.float32(pair_limit(largest_code) - 1), np.float32)
