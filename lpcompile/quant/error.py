"""How far an approximation is from its reference; sums in float64."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F64

_BLOCK_ELEMENTS = 1 << 18


def mse(reference: NDArray[Any], approximation: NDArray[Any]) -> float:
    """Mean squared error.

    Raises:
        ValueError: the shapes differ.
    """
    _, _, _, noise = _sums(reference, approximation)
    return noise / max(np.size(reference), 1)


def sqnr_db(reference: NDArray[Any], approximation: NDArray[Any]) -> float:
    """Signal to quantisation noise ratio, 10 log10(sum r^2 / sum (r - a)^2), in dB.

    Equal arrays give inf, a zero reference with a non-zero approximation -inf.

    Raises:
        ValueError: the shapes differ.
    """
    signal, _, _, noise = _sums(reference, approximation)
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def cosine(reference: NDArray[Any], approximation: NDArray[Any]) -> float:
    """Cosine of the angle between the two; 1 where both are zero, 0 where one is.

    Raises:
        ValueError: the shapes differ.
    """
    signal, other, product, _ = _sums(reference, approximation)
    if signal == 0 and other == 0:
        return 1.0
    return product / math.sqrt(signal * other) if signal > 0 and other > 0 else 0.0


def _sums(reference: NDArray[Any], approximation: NDArray[Any]) -> tuple[float, float, float, float]:
    """Sums of r^2, a^2, r*a and (r - a)^2."""
    if np.shape(reference) != np.shape(approximation):
        raise ValueError(f"shapes differ: {np.shape(reference)} and {np.shape(approximation)}")
    r, a = np.ravel(reference), np.ravel(approximation)
    total: F64 = np.zeros(4)
    for start in range(0, r.size, _BLOCK_ELEMENTS):  # bounded memory: float64 copies of a block at a time
        x = r[start : start + _BLOCK_ELEMENTS].astype(np.float64)
        y = a[start : start + _BLOCK_ELEMENTS].astype(np.float64)
        d = x - y
        total += [np.sum(x * x), np.sum(y * y), np.sum(x * y), np.sum(d * d)]
    signal, other, product, noise = total.tolist()
    return signal, other, product, noise
