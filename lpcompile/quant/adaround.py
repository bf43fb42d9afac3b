"""AdaRound: which of two neighbouring levels each weight takes, learned for all weights of a layer together.

Between its level and the next one towards the real weight every weight stands at a fraction h(v), a rectified sigmoid:

    loss = e H e^T + l sum_k H_kk g_k^2 (1 - |2 h_k - 1|^b),   e = weights - (levels + h g),   g = gap to the next level

The second term drives fractions to 0 or 1 while b falls. The Gram matrix holds all that is needed of the inputs: no
sample is run. Adam steps in float32. [nagel2020, sec. 4; H g^2 gives the term the size of the loss for any format]
"""

import math
from dataclasses import replace

import numpy as np

from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.gram_factor import scaled_gram
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, UnitRows, unit_rows

ITERATIONS = 300
_STRETCH = np.float32(1.2)  # of the sigmoid; what lies beyond 0 and 1 is cut off
_OFFSET = np.float32(-0.1)
_SOFTENED = np.float32(0.2)  # how far from its level a weight starts, relative to where it really is
_LEAST = np.float32(0.05)
_WARM_UP = 0.2  # share of the iterations without the second term
_WEIGHT = np.float32(10)  # l
_BETAS = np.float32(20), np.float32(2)
_RATE = 0.1  # of Adam
_DECAYS = (0.9, 0.999)
_TINY = np.float32(1e-12)


def adaround(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    iterations: int = ITERATIONS,
    damping: float = 0.0,
) -> QuantizedTensor:
    """The tensor with codes of output error that is less, or the same for each row.

    Args:
        rows: the real weights, (R, K) float32.
        tensor: format, scales and the codes to start from.
        gram: (G, K, K) E[x x^T].
        groups: (R,) the matrix of each row; None for equal runs of rows.
        iterations: steps of Adam; a sweep of coordinate descent comes after them.
        damping: added to the diagonals, relative to their mean: then it is that error which falls.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    units = unit_rows(rows, tensor, len(gram), groups)
    h, _ = scaled_gram(gram[units.used], damping)
    learned = units.tensor(_learned(units, h, iterations))
    found = sweep(rows, learned, gram, groups, sweeps=1, damping=damping)
    before, after = (row_losses(rows, t, gram, groups, damping=damping) for t in (tensor, found))
    return replace(tensor, codes=np.where((after < before)[:, None], found.codes, tensor.codes))


def _learned(units: UnitRows, h: F32, iterations: int) -> F32:
    """(G, K, P) levels."""
    start = units.levels()
    gap = units.towards(start) - start
    error = units.values - start
    exact = np.divide(error, gap, out=np.zeros_like(gap), where=gap != 0)
    v = _logit(_SOFTENED * np.clip(exact, _LEAST, 1))
    pressure = _WEIGHT * np.diagonal(h, axis1=1, axis2=2)[:, :, None] * gap**2
    adam = _Adam(v)
    warm = int(_WARM_UP * iterations)
    for i in range(iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        fraction = sigmoid * _STRETCH + _OFFSET
        inside = (fraction > 0) & (fraction < 1)
        np.clip(fraction, 0, 1, out=fraction)
        slope = (h @ (error - fraction * gap)) * (-2 * gap)
        if i >= warm:
            beta = _BETAS[0] + (_BETAS[1] - _BETAS[0]) * np.float32((i - warm) / (iterations - warm))
            centred = 2 * fraction - 1
            slope -= pressure * (2 * beta) * np.sign(centred) * np.abs(centred) ** (beta - 1)
        slope *= sigmoid * (1 - sigmoid) * inside
        v -= adam.step(slope)
    return np.where(v >= 0, start + gap, start)


class _Adam:
    """Steps of one size for slopes of any size [1412.6980]."""

    def __init__(self, like: F32) -> None:
        self._mean, self._square = np.zeros_like(like), np.zeros_like(like)
        self._steps = 0

    def step(self, slope: F32) -> F32:
        """What to subtract."""
        self._steps += 1
        mean, square = _DECAYS
        self._mean += (1 - mean) * (slope - self._mean)
        self._square += (1 - square) * (slope * slope - self._square)
        rate = _RATE * math.sqrt(1 - square**self._steps) / (1 - mean**self._steps)
        return np.asarray(rate * self._mean / (np.sqrt(self._square) + _TINY), np.float32)


def _logit(fraction: F32) -> F32:
    s = (fraction - _OFFSET) / _STRETCH
    return np.asarray(np.log(s / (1 - s)), np.float32)
