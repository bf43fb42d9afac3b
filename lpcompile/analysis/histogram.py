"""Streamed statistics of one activation: extremes, a histogram that widens when it must, moments."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 16384  # 32 bins or more for each step of 8 bits over the range in use
SAMPLE = 1 << 16  # elements of one tensor and call that go into the histogram; extremes and moments read all
LEAST_REACH = 2.0**-100  # keeps BINS / reach a float32
LARGEST_SQUARED = 1e15  # beyond it, sums of squares leave float32
ROWS = 256  # summed in float32 before going on in float64


@dataclass
class TensorStatistics:
    """Statistics of one tensor over many calls, in bounded memory (BINS counters).

    The histogram is centred on zero and covers [-reach, reach), `reach` a power of two; when a larger value
    arrives, neighbouring bins merge, so one sweep over the data is enough. [architecture 8]
    """

    low: float = 0.0  # zero is always in the range: padding and sparsity must be exact
    high: float = 0.0
    finite: bool = True
    count: int = 0
    reach: float = 0.0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    channel_axis: int | None = None
    channel_rows: int = 0
    channel_sum: NDArray[np.float64] | None = None
    channel_sum_squares: NDArray[np.float64] | None = None
    spatial: Counter[tuple[int, ...]] = field(default_factory=Counter)
    lag_sum: float = 0.0
    lag_count: int = 0

    def update(self, x: NDArray[np.floating]) -> None:
        """Take in one array of any shape."""
        if x.size == 0:
            return
        x = np.ascontiguousarray(x)
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += x.size
        self._reach_for(max(-low, high))
        self._add_moments(x if max(-low, high) < LARGEST_SQUARED else x.astype(np.float64))
        self._add_bins(x.reshape(-1))

    def _add_bins(self, flat: NDArray[np.floating]) -> None:
        if flat.size > SAMPLE:  # an odd stride, so that no channel or column is favoured
            flat = flat[:: (flat.size // SAMPLE) | 1]
        if self.reach == 0:  # nothing but zeros so far, and zero has the same bin at any reach
            self.bins[BINS // 2] += flat.size
        else:  # an exact product, so merging bins gives what a wider histogram would have counted
            index = np.floor(flat * flat.dtype.type(BINS / 2 / self.reach)).astype(np.intp)
            index += BINS // 2
            self.bins += np.bincount(index, minlength=BINS)

    def _reach_for(self, largest: float) -> None:
        if largest <= 0 or largest < self.reach:
            return
        wanted = max(math.ldexp(1.0, math.frexp(largest)[1]), LEAST_REACH)
        while 0 < self.reach < wanted:
            merged = self.bins.reshape(-1, 2).sum(1)
            self.bins = np.zeros(BINS, np.int64)
            self.bins[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.reach *= 2
        self.reach = max(self.reach, wanted)

    def _add_moments(self, x: NDArray[np.floating]) -> None:
        if self.channel_axis is None or x.ndim < 2:
            return
        first, second = channel_sums(x, self.channel_axis % x.ndim)
        if self.channel_sum is None or self.channel_sum_squares is None:
            self.channel_sum, self.channel_sum_squares = np.zeros_like(first), np.zeros_like(second)
        self.channel_sum += first
        self.channel_sum_squares += second
        self.channel_rows += x.size // len(first)
        if self.channel_axis == 1:
            self.spatial[x.shape[2:]] += len(x)
        if self.channel_axis == 1 and x.ndim > 2 and x.shape[-1] > 1:
            planes = x.reshape(-1, x.shape[-1])
            self.lag_sum += float(np.einsum("rc,rc->r", planes[:, 1:], planes[:, :-1]).sum(dtype=np.float64))
            self.lag_count += planes.size - len(planes)

    @property
    def channel_mean(self) -> NDArray[np.float64] | None:
        """E[x_c] of each channel, (C,)."""
        return None if self.channel_sum is None else self.channel_sum / max(1, self.channel_rows)

    @property
    def channel_second_moment(self) -> NDArray[np.float64] | None:
        """E[x_c^2] of each channel, (C,)."""
        return (
            None if self.channel_sum_squares is None else self.channel_sum_squares / max(1, self.channel_rows)
        )

    @property
    def spatial_correlation(self) -> float:
        """Correlation of neighbours on the last axis, channels' means taken out; 0 where there are none."""
        mean, second = self.channel_mean, self.channel_second_moment
        if mean is None or second is None or self.lag_count == 0:
            return 0.0
        square = float((mean**2).mean())
        variance = float(second.mean()) - square
        return (
            float(np.clip((self.lag_sum / self.lag_count - square) / variance, 0, 1)) if variance > 0 else 0.0
        )

    def points(self, most: int = BINS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres and weights of the filled bins; the weights sum to one.

        Args:
            most: neighbouring bins are merged, in powers of two, until there are no more than this.
        """
        filled = np.flatnonzero(self.bins)
        centres = np.asarray((filled + 0.5 - BINS / 2) * (2 * self.reach / BINS), np.float64)
        weights = np.asarray(self.bins[filled] / max(1, self.bins.sum()), np.float64)
        cell, width = filled, 1
        starts = np.arange(len(filled))
        while len(starts) > most:
            width *= 2
            cell = filled // width
            starts = np.flatnonzero(np.diff(cell, prepend=-1))
        if width > 1:
            mass = np.asarray(np.add.reduceat(weights, starts), np.float64)
            return np.asarray(np.add.reduceat(centres * weights, starts)) / mass, mass
        return centres, weights


def channel_sums(x: NDArray[np.floating], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of x and x^2 over all axes but one, (C,): short sums in the type of x, long ones in float64."""
    channels = x.shape[axis]
    if axis == x.ndim - 1:
        rows = x.reshape(-1, channels)
        whole = len(rows) // ROWS * ROWS
        parts = [rows[:whole].reshape(-1, ROWS, channels), rows[None, whole:]]
        first = np.concatenate([np.add.reduce(p, 1) for p in parts])
        second = np.concatenate([np.einsum("nrc,nrc->nc", p, p) for p in parts])
    else:
        planes = x.reshape(math.prod(x.shape[:axis]), channels, -1)
        first = np.add.reduce(planes, -1)
        second = np.einsum("ncp,ncp->nc", planes, planes)
    return first.astype(np.float64).sum(0), second.astype(np.float64).sum(0)
