"""The MVM of a group whose columns all stay within the converter's range: one integer matrix product.

A product in float32 is exact, in whatever order it is summed, while the positive and the negative part of every
partial sum stay below 2^24; rows are cut into pieces for which that holds for all inputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = 1 << 24
_UNIT_ROWS = 64


@dataclass(frozen=True)
class MatrixGroup:
    """Weights ready for products with inputs of one range.

    Attributes:
        pieces: (first row, row behind, float32 weights (rows, outputs)).
        low, high: no sum leaves this range.
    """

    pieces: tuple[tuple[int, int, NDArray[np.float32]], ...]
    low: int
    high: int


def prepare(weights: NDArray[Any], input_low: int, input_high: int) -> MatrixGroup:
    """Cut weights (rows, outputs) of at most 2^16 into exact pieces for inputs `input_low ... input_high`."""
    rows = len(weights)
    largest = max(int(weights.max()), -int(weights.min()), 1)
    unit = min(max(_EXACT // (largest * max(-input_low, input_high, 1)), 1), _UNIT_ROWS)
    starts = np.arange(0, rows, unit)
    total = np.add.reduceat(weights, starts, axis=0, dtype=np.int64)  # (units, outputs)
    above = np.add.reduceat(np.maximum(weights, 0), starts, axis=0, dtype=np.int64)
    below = above - total
    # the most and the least that the rows of a unit can add
    most = above * input_high - below * input_low
    least = above * input_low - below * input_high
    whole = weights.astype(np.float32)
    pieces, begin = [], 0
    high, low = np.zeros_like(total[0]), np.zeros_like(total[0])
    for index, start in enumerate(starts.tolist()):
        high, low = high + most[index], low + least[index]
        if start > begin and (high.max() >= _EXACT or low.min() <= -_EXACT):
            pieces.append((begin, start, whole[begin:start]))
            begin, high, low = start, most[index], least[index]
    pieces.append((begin, rows, whole[begin:]))
    return MatrixGroup(tuple(pieces), int(least.sum(axis=0).min()), int(most.sum(axis=0).max()))


def multiply(x: NDArray[np.float32], group: MatrixGroup, out: NDArray[Any]) -> None:
    """Write x @ weights.

    Args:
        x: whole numbers, (positions, rows), C-contiguous.
        group: the weights.
        out: float32 (positions, outputs) where there is one piece, int64 where there are more.
    """
    if len(group.pieces) == 1:
        np.matmul(x, group.pieces[0][2], out=out)
        return
    out[...] = 0
    for start, stop, weights in group.pieces:
        out += (x[:, start:stop] @ weights).astype(out.dtype)
