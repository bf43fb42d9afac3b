"""BlockQuantMatMul in numpy, and how far a kernel may be from it.

Inputs are rounded to int8 by blocks, products are exact, sums are formed in float64. ONNX Runtime adds its blocks in
float32 and on some processors keeps the inputs as floats, so equality is not asked for: a kernel is right where it is
within half a step of every input. [ir/block_matmul]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.block_matmul import BLOCK, LARGEST_CODE
from lpcompile.runtime.reference_weights import Rows
from lpcompile.runtime.sampling import chosen

F64 = NDArray[np.float64]
FLOAT_ROUNDING = 1e-5  # of the sum of magnitudes: thousands of float32 additions


def round_by_blocks(x: NDArray[np.float32]) -> tuple[F64, F64]:
    """Rounded inputs (P, K) as numbers, and the step of each block (P, K / 32), 0 where it holds only zeros."""
    blocks = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True)
    step = (largest / np.float32(LARGEST_CODE)).astype(np.float64)
    per_step = np.divide(np.float32(LARGEST_CODE), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * per_step) * step).reshape(x.shape), step[..., 0]


def block_outputs(
    rows: Rows, x: NDArray[np.float32], limit: int | None = None, rng: np.random.Generator | None = None
) -> tuple[NDArray[np.float32], tuple[Any, ...], tuple[int, ...]]:
    """Some output rows.

    Args:
        rows: weights (N, K).
        x: float32 (..., K).
        limit: at most so many rows, drawn by `rng`; None for all.
        rng: draws.

    Returns:
        (P, N) float32; the index that finds them in the output; the output's shape.
    """
    shape = (*x.shape[:-1], len(rows.values))
    flat = x.reshape(-1, x.shape[-1])
    at = chosen(len(flat), limit, rng)
    rounded, _ = round_by_blocks(flat[at])
    y = rounded @ rows.values.T.astype(np.float64) * rows.scale
    return y.astype(np.float32), np.unravel_index(at, shape[:-1]), shape


def block_bound(rows: Rows, x: NDArray[np.float32], at: tuple[Any, ...]) -> F64:
    """(P, N): how far a right kernel may be from `block_outputs` at these rows."""
    taken = x[at]
    magnitudes = np.abs(rows.values.astype(np.float64)).reshape(len(rows.values), -1, BLOCK)
    _, step = round_by_blocks(taken)
    half_steps = step / 2 @ magnitudes.sum(-1).T
    largest = np.abs(taken).astype(np.float64) @ magnitudes.reshape(len(magnitudes), -1).T
    return np.asarray((half_steps + FLOAT_ROUNDING * largest) * rows.scale)
