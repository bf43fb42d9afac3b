"""What rounding the weights of a layer loses, of the weights themselves and of the layer's output."""

import math

import numpy as np
from numpy.typing import NDArray

_ROWS = 64  # summed in float32 before going on in float64

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def column_energy(w: F32, rounded: F32) -> tuple[F64, F64]:
    """Sums of w^2 and of (rounded - w)^2 over the rows, (K,) each, of (C_out, K) weights."""
    signal, noise = np.zeros(w.shape[1]), np.zeros(w.shape[1])
    for first in range(0, len(w), _ROWS):
        part = slice(first, first + _ROWS)
        error = rounded[part] - w[part]
        signal += np.einsum("ij,ij->j", w[part], w[part])
        noise += np.einsum("ij,ij->j", error, error)
    return signal, noise


def ratio_db(signal: float, noise: float) -> float | None:
    """10 log10 of the ratio; None where one of the two is zero."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def output_sqnr_db(signal: F64, noise: F64, moments: F32, step: float) -> float | None:
    """SQNR of a layer's output, estimated: inputs of second moments `moments` (K,) that do not correlate.

    Args:
        signal: sum over rows of W_k^2, (K,).
        noise: sum over rows of dW_k^2, (K,).
        moments: E[x_k^2], (K,).
        step: of the input's quantiser, 0 for a float input: its error counts as step^2 / 12.
    """
    return ratio_db(float(moments @ signal), float(moments @ noise) + step**2 / 12 * float(signal.sum()))
