"""From statistics to a range, from a range to a scale and a zero point.

Rules: `minmax` (the extremes), `percentile` (tails cut at both ends), `mse` (the range whose rounding and clipping
error is least). Zero is always exactly representable.
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.histogram import TensorStatistics

RULES = ("minmax", "percentile", "mse")


@dataclass(frozen=True, slots=True)
class Range:
    """A closed range of real values that holds zero."""

    low: float
    high: float

    def union(self, other: "Range") -> "Range":
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def find_range(statistics: TensorStatistics, rule: str, *, levels: int, percentile: float = 99.99) -> Range:
    """The range of a tensor by one of RULES for a quantiser of `levels` levels."""
    full = Range(min(0.0, statistics.low), max(0.0, statistics.high))
    if rule == "minmax" or full.low == full.high:
        return full
    if rule == "percentile":
        return _percentile(statistics, full, percentile)
    return _least_error(statistics, full, levels)


def _percentile(statistics: TensorStatistics, full: Range, percentile: float) -> Range:
    centres, weights = statistics.points()
    half_bin = statistics.reach / (len(statistics.bins))
    running = np.cumsum(weights)
    tail = 1 - percentile / 100
    low = centres[np.searchsorted(running, tail)] - half_bin
    high = centres[min(np.searchsorted(running, 1 - tail), len(centres) - 1)] + half_bin
    return Range(float(max(full.low, min(0.0, low))), float(min(full.high, max(0.0, high))))


def mean_squared_error(statistics: TensorStatistics, r: Range, levels: int) -> float:
    """Mean squared rounding and clipping error of the tensor quantised over `r`."""
    centres, weights = statistics.points()
    scale, zero = affine(r, levels)
    codes = np.clip(np.rint(centres / scale) + zero, 0, levels - 1)
    return float((weights * (scale * (codes - zero) - centres) ** 2).sum())


def _least_error(statistics: TensorStatistics, full: Range, levels: int) -> Range:
    """Shrink both ends together, then each alone, while the error falls (coordinate search, deterministic)."""
    factors = np.concatenate([np.linspace(0.05, 0.3, 6), np.linspace(0.34, 1.0, 34)])
    best, least = full, mean_squared_error(statistics, full, levels)
    for low_too, high_too in ((True, True), (True, False), (False, True), (True, False)):
        start = best
        for f in factors:
            trial = Range(
                (full.low if low_too and high_too else start.low) * (f if low_too else 1.0),
                (full.high if low_too and high_too else start.high) * (f if high_too else 1.0),
            )
            if trial.low == trial.high:
                continue
            error = mean_squared_error(statistics, trial, levels)
            if error < least:
                best, least = trial, error
    return best


def affine(r: Range, levels: int) -> tuple[float, int]:
    """Scale (a float32 value) and zero point of the codes 0..levels-1 over a range; a one-sided range gets 0 or levels-1."""
    width = r.high - r.low
    if width <= 0 or not np.isfinite(width):
        return 1.0, 0
    scale = max(float(np.float32(width / (levels - 1))), float(np.finfo(np.float32).tiny))
    zero = int(np.clip(np.rint(-r.low / scale), 0, levels - 1))
    return scale, zero
