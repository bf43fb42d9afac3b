"""Exact integer arithmetic on arrays: sums into int32, products, saturation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

INT32_LOW, INT32_HIGH = -(1 << 31), (1 << 31) - 1


def add_into(sums: NDArray[Any], more: NDArray[Any], low: int, high: int, *, init: bool) -> bool:
    """`sums += more`, or `sums = more` with `init`, unless a result leaves the range of int32.

    Args:
        sums: int32, written.
        more: whole numbers of any dtype, of the same shape.
        low: all of `more` is known to be at least that.
        high: and at most that.
        init: the sums start at zero.

    Returns:
        Whether all results fit; where they do not, `sums` is as it was.
    """
    if init:
        if low < INT32_LOW or high > INT32_HIGH:
            wide = more.astype(np.int64)
            if wide.min() < INT32_LOW or wide.max() > INT32_HIGH:
                return False
        np.copyto(sums, more, casting="unsafe")
        return True
    if int(sums.min()) + min(low, 0) >= INT32_LOW and int(sums.max()) + max(high, 0) <= INT32_HIGH:
        sums += more.astype(np.int32)
        return True
    wide = sums.astype(np.int64) + more.astype(np.int64)
    if wide.min() < INT32_LOW or wide.max() > INT32_HIGH:
        return False
    sums[...] = wide
    return True


def product(x: NDArray[Any], w: NDArray[Any], most_x: int, most_w: int) -> NDArray[Any]:
    """`x @ w` of whole numbers, exact.

    Args:
        x: (..., rows).
        w: (rows, outputs).
        most_x: absolute values of x are at most that.
        most_w: and those of w.

    Raises:
        OverflowError: a sum might leave the range of int64.
    """
    most = most_x * most_w * w.shape[0]
    if most < 1 << 24:
        kind: Any = np.float32
    elif most < 1 << 53:
        kind = np.float64
    elif most < 1 << 63:
        kind = np.int64
    else:
        raise OverflowError
    found: NDArray[Any] = np.matmul(x.astype(kind), w.astype(kind))
    return found
