"""Scale rules: each takes weights in rows and a set of levels, and gives one scale a row.

`w ~ s * level`, s chosen so that the result is good in the sense of the rule; rows of zeros get scale 0, for
the caller to replace. The rule output-mse is `mse` with the squared error weighted by the second moments of
the inputs, E[x_k^2]: for uncorrelated inputs that is the error of the layer's output.

Shapes: w (R, K) float32, finite and not empty, importance (K,) float32, result (R,) float64.
"""

from collections.abc import Callable

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.nearest import Nearest

DIVISORS = (1, 4, 8)  # of fixed scales
_EXPONENTS = 3  # powers of two that are tried on either side of the absmax scale
_MANY_LEVELS = 64
_BLOCK_ELEMENTS = 1 << 16
SMALLEST_SCALE = 2.0**-120  # quotients of weights by it stay finite, and are exact enough


def absmax(w: F32, levels: Nearest) -> F64:
    """The largest magnitude lands on the top level."""
    largest = np.maximum(w.max(axis=1), -w.min(axis=1)).astype(np.float64)
    return np.asarray(largest / levels.top)


def percentile(w: F32, levels: Nearest, percent: float = 99.9) -> F64:
    """The given percentile of the magnitudes lands on the top level; absmax where that percentile is 0."""
    k = max(0, int(np.ceil(w.shape[1] * percent / 100)) - 1)
    magnitude = np.partition(np.abs(w), k, axis=1)[:, k].astype(np.float64)
    return np.where(magnitude > 0, magnitude / levels.top, absmax(w, levels))


def l1norm(w: F32, levels: Nearest) -> F64:
    """(2**b - 1) / 2**(b-1) times the mean magnitude lands on the end of the range [azizi2023, 2.4 (a)]."""
    bits = int(np.ceil(np.log2(len(levels.levels))))
    reach = float(np.abs(levels.levels).max())
    mean = np.abs(w).mean(axis=1, dtype=np.float64)
    return np.asarray(mean * (2**bits - 1) / 2 ** (bits - 1) / reach)


def maxent(w: F32, levels: Nearest) -> F64:
    """The scale at which the levels are used most evenly: maximum entropy of the codes. Costs MSE."""
    return _search(absmax(w, levels), lambda s: -code_entropy_bits(w, s, levels), _ratios(levels, 0.05, 40))


def mse(w: F32, levels: Nearest, importance: F32 | None = None) -> F64:
    """Least squared error, weighted by `importance` where it is given; coarse to fine over the scale."""
    fine = len(levels.levels) > _MANY_LEVELS  # little to gain by clipping: a shorter search
    ratios = np.geomspace(0.68, 1.02, 8) if fine else _ratios(levels, 0.15, 28)
    offsets = (-2, -1, 1, 2) if fine else (-3, -2, -1, 1, 2, 3)
    return _search(absmax(w, levels), lambda s: squared_error(w, s, levels, importance), ratios, offsets)


def power_of_two(w: F32, levels: Nearest, unit: float, importance: F32 | None = None) -> F64:
    """`unit` times the power of two of least (weighted) squared error [azizi2023, 2.5]."""
    base = absmax(w, levels)
    exponent = np.round(np.log2(np.where(base > 0, base, unit) / unit))
    best, least = np.zeros(len(w)), np.full(len(w), np.inf)
    for step in range(-_EXPONENTS, _EXPONENTS + 1):
        scale = unit * np.exp2(exponent + step)
        loss = squared_error(w, scale, levels, importance)
        better = (loss < least) & (base > 0)
        best[better], least[better] = scale[better], loss[better]
    return best


def fixed(w: F32, levels: Nearest, unit: float, importance: F32 | None = None) -> F64:
    """`unit` over 1, 4 or 8, whichever suits all rows together best [azizi2023, 2.5: posit4, sc,4 and sc,8]."""
    scales = [np.full(len(w), unit / d) for d in DIVISORS]
    return min(scales, key=lambda s: float(squared_error(w, s, levels, importance).sum()))


def code_entropy_bits(w: F32, scales: F64, levels: Nearest) -> F64:
    """(R,) entropy of the levels that each row uses, in bits."""
    count = len(levels.levels)
    entropy = np.empty(len(w))
    step = max(1, _BLOCK_ELEMENTS // max(w.shape[1], 1))
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        index = np.searchsorted(
            levels.levels, levels.round_block(w[rows] / _positive(scales[rows])[:, None]).astype(np.float64)
        )
        index += np.arange(len(index))[:, None] * count
        p = np.bincount(index.reshape(-1), minlength=len(index) * count).reshape(-1, count) / w.shape[1]
        entropy[rows] = -np.sum(p * np.log2(np.where(p > 0, p, 1)), axis=1)
    return entropy


def squared_error(w: F32, scales: F64, levels: Nearest, importance: F32 | None = None) -> F64:
    """(R,) sum over k of importance_k * (w_k - s * nearest(w_k / s))**2."""
    rows_step = max(1, _BLOCK_ELEMENTS // max(w.shape[1], 1))
    columns_step = min(w.shape[1], _BLOCK_ELEMENTS)
    divisors = _positive(scales)
    error = np.zeros(len(w))
    for row in range(0, len(w), rows_step):
        rows = slice(row, row + rows_step)
        for column in range(0, w.shape[1], columns_step):
            columns = slice(column, column + columns_step)
            d = w[rows, columns] / divisors[rows, None]
            d -= levels.round_block(d)
            weighted = d if importance is None else d * importance[columns]
            error[rows] += np.einsum("ij,ij->i", d, weighted)
    return error * divisors.astype(np.float64) ** 2


def _positive(scales: F64) -> F32:
    return np.clip(scales, SMALLEST_SCALE, 1 / SMALLEST_SCALE).astype(np.float32)


def top_ratio(levels: Nearest) -> float:
    """By how much a good scale may exceed the absmax one: until the two upper levels lie idle."""
    positive = levels.levels[levels.levels > 0]
    return float(positive[-1] / positive[-3]) * 1.02 if len(positive) > 3 else 1.5


def _ratios(levels: Nearest, low: float, count: int) -> F64:
    return np.geomspace(low, top_ratio(levels), count)


def _search(
    base: F64, loss: Callable[[F64], F64], ratios: F64, offsets: tuple[int, ...] = (-3, -2, -1, 1, 2, 3)
) -> F64:
    """(R,) the best of base, base * ratios and two ever finer steps around it."""
    best_loss = np.full(base.shape, np.inf)
    best = np.ones_like(base)

    def consider(ratio: F64) -> None:
        found = loss(base * ratio)
        better = found < best_loss
        best_loss[better] = found[better]
        best[better] = ratio[better]

    for ratio in (1.0, *ratios):
        consider(np.full_like(base, ratio))
    step = float(np.log(ratios[1] / ratios[0]))
    for _ in range(2):
        centre = best.copy()
        step /= 4 if len(offsets) > 4 else 3
        for offset in offsets:
            consider(centre * np.exp(offset * step))
    return base * best
