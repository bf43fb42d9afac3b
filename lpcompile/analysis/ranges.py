"""From statistics to a range.

Rules: `minmax` (the extremes), `percentile` (tails cut at both ends), `mse` (the range whose rounding and
clipping error is least), `kl` (the one whose codes tell most of the histogram, `kl_divergence`), `middle`
(halfway between mse and minmax on a log scale: large values weigh more at the output of a network than their
squared error says, and at 8 bits a wider step costs little). Zero is always exactly representable.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.affine import Range, affine_arrays
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.kl_divergence import divergences

RULES = ("minmax", "percentile", "mse", "kl", "middle")
FACTORS = np.concatenate([[1.0], np.linspace(0.05, 0.3, 6), np.linspace(0.34, 0.98, 33)])
POINTS = 2048  # of the histogram while candidates are compared
BOTH, LOW, HIGH = (True, True), (True, False), (False, True)

F64 = NDArray[np.float64]
Costs = Callable[[F64, F64, F64, F64, int], F64]  # (centres, weights, lows, highs, levels) -> one a range


def find_range(statistics: TensorStatistics, rule: str, *, levels: int, percentile: float = 99.99) -> Range:
    """The range of a tensor by one of RULES for a quantiser of `levels` levels."""
    full = Range(min(0.0, statistics.low), max(0.0, statistics.high))
    if rule == "minmax" or full.low == full.high:
        return full
    if rule == "percentile":
        return _percentile(statistics, full, percentile)
    if rule == "kl":
        return _least(statistics, full, levels, divergences)
    least = _least_error(statistics, full, levels)
    if rule == "mse":
        return least
    return Range(-math.sqrt(least.low * full.low), math.sqrt(least.high * full.high))


def _percentile(statistics: TensorStatistics, full: Range, percentile: float) -> Range:
    centres, weights = statistics.points()
    half_bin = statistics.reach / len(statistics.bins)
    running = np.cumsum(weights)
    tail = 1 - percentile / 100
    last = len(centres) - 1
    ends = np.minimum(np.searchsorted(running, [tail, 1 - tail]), last)
    low, high = centres[ends[0]] - half_bin, centres[ends[1]] + half_bin
    return Range(float(max(full.low, min(0.0, low))), float(min(full.high, max(0.0, high))))


def mean_squared_error(statistics: TensorStatistics, r: Range, levels: int) -> float:
    """Mean squared rounding and clipping error of the tensor quantised over `r`, by its histogram."""
    centres, weights = statistics.points()
    return float(_errors(centres, weights, np.array([r.low]), np.array([r.high]), levels)[0])


def _errors(centres: F64, weights: F64, lows: F64, highs: F64, levels: int) -> F64:
    """Mean squared error for each of k candidate ranges, (k,)."""
    scales, zeros = affine_arrays(lows, highs, levels)
    unit = float(np.abs(centres).max())  # so that no square leaves float32
    s, z = (scales / unit).astype(np.float32)[:, None], zeros.astype(np.float32)[:, None]
    x = (centres / unit).astype(np.float32)[None, :]
    error = np.rint(x / s)
    np.clip(error, -z, levels - 1 - z, out=error)
    error *= s
    error -= x
    found = np.einsum("km,km,m->k", error, error, weights.astype(np.float32))
    return np.asarray(found, np.float64) * unit**2


def _least_error(statistics: TensorStatistics, full: Range, levels: int) -> Range:
    found = _least(statistics, full, levels, _errors)
    whole = mean_squared_error(statistics, full, levels)
    return found if mean_squared_error(statistics, found, levels) < whole else full


def _least(statistics: TensorStatistics, full: Range, levels: int, costs: Costs) -> Range:
    """Shrink both ends together, then each alone, to the least cost (coordinate search, deterministic)."""
    centres, weights = statistics.points(POINTS)
    best = np.array([full.low, full.high])
    one_sided = full.low == 0 or full.high == 0
    for ends in (BOTH,) if one_sided else (BOTH, LOW, HIGH, LOW, HIGH):
        trials = np.where(ends, FACTORS[:, None] * [full.low, full.high], best)
        trials = np.concatenate([best[None], trials])
        best = trials[np.argmin(costs(centres, weights, trials[:, 0], trials[:, 1], levels))]
    return Range(float(best[0]), float(best[1]))
