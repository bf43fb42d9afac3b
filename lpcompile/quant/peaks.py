"""How far the largest weights of rows stand out: what that does to a grid that must reach them.

A grid of 2m + 1 steps up to the largest weight of a block rounds with an error of (max / m)^2 / 12 a weight, so that
n max^2 / sum w^2 says how far errors are above those of weights of one size.
"""

import numpy as np
from numpy.typing import NDArray


def peak_energy(rows: NDArray[np.floating], block: int = 0) -> float:
    """Sum over blocks of their size times their largest square.

    Args:
        rows: (R, K) weights, one row an output.
        block: weights that share a grid, in the order of a row; 0: a row.
    """
    width = rows.shape[1]
    found = 0.0
    for at in range(0, width, block or max(1, width)):
        part = rows[:, at : at + (block or width)].astype(np.float64)
        found += part.shape[1] * float(np.square(np.abs(part).max(axis=1, initial=0.0)).sum())
    return found


def peak_db(rows: NDArray[np.floating]) -> float:
    """Largest square of each row above the mean square of all, in dB; 0 for weights of one size, and for zeros."""
    energy = float(np.einsum("rk,rk->", rows, rows, dtype=np.float64)) if rows.size else 0.0
    return 10 * float(np.log10(peak_energy(rows) / energy)) if energy > 0 else 0.0
