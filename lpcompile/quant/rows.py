"""Weights as a matrix of rows (C_out, K): one row an output channel, K the products summed for one output.

Conv (C_out, C_in/g, *kernel) is that already; Gemm (transB = 0) and MatMul hold (K, N) and are transposed.
ConvTranspose (C_in, C_out/g, *kernel) keeps its first axis: its rows are input channels, which is enough for storage.
"""

import numpy as np
from numpy.typing import NDArray

TRANSPOSED_OPS = ("Gemm", "MatMul")


def to_rows(op: str, w: NDArray[np.floating]) -> NDArray[np.float32]:
    """The rows of a layer's weights, contiguous float32 (C_out, K)."""
    matrix = w.T if op in TRANSPOSED_OPS else w.reshape(w.shape[0], -1)
    return np.ascontiguousarray(matrix, np.float32)


def from_rows(op: str, rows: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Rows put back into the shape that the operator wants."""
    return np.ascontiguousarray(rows.T) if op in TRANSPOSED_OPS else rows.reshape(shape)


def channel_axis(op: str) -> int:
    """The axis of the weight tensor that runs over rows."""
    return 1 if op in TRANSPOSED_OPS else 0
