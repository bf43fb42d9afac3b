"""Streamed statistics of one activation: extremes, a histogram whose range doubles when it must, second moments."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 16384  # at least 16 bins a step of 8 bits over the range in use
SAMPLE = 1 << 18  # elements of one tensor and call that go into the histogram; extremes read all


@dataclass
class TensorStatistics:
    """Statistics of one tensor over many calls, in bounded memory (BINS counters).

    The histogram is centred on zero and covers [-reach, reach), `reach` a power of two; when a larger value arrives,
    neighbouring bins merge, so one sweep over the data is enough whatever the range. [architecture 8]
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

    def update(self, x: NDArray[np.floating]) -> None:
        """Take in one array of any shape."""
        if x.size == 0:
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += x.size
        self._add_moments(x)
        flat = x.reshape(-1)
        if flat.size > SAMPLE:  # an odd stride, so that no channel or column is favoured
            flat = flat[:: (flat.size // SAMPLE) | 1]
        self._reach_for(max(-low, high))
        if self.reach > 0:
            index = (flat * np.float32(BINS / 2 / self.reach) + np.float32(BINS / 2)).astype(np.int32)
            np.clip(index, 0, BINS - 1, out=index)
            self.bins += np.bincount(index, minlength=BINS)

    def _reach_for(self, largest: float) -> None:
        if largest <= 0 or largest < self.reach:
            return
        wanted = float(2.0 ** (np.floor(np.log2(largest)) + 1))
        while 0 < self.reach < wanted:
            merged = self.bins.reshape(-1, 2).sum(1)
            self.bins = np.zeros(BINS, np.int64)
            self.bins[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.reach *= 2
        self.reach = max(self.reach, wanted)

    def _add_moments(self, x: NDArray[np.floating]) -> None:
        if self.channel_axis is None or x.ndim < 2:
            return
        axes = tuple(i for i in range(x.ndim) if i != self.channel_axis % x.ndim)
        first, second = x.sum(axes, dtype=np.float64), np.square(x).sum(axes, dtype=np.float64)
        rows = x.size // len(first)
        if self.channel_sum is None or self.channel_sum_squares is None:
            self.channel_sum, self.channel_sum_squares = first, second
        else:
            self.channel_sum, self.channel_sum_squares = self.channel_sum + first, self.channel_sum_squares + second
        self.channel_rows += rows

    @property
    def channel_mean(self) -> NDArray[np.float64] | None:
        """E[x_c] of each channel, (C,)."""
        return None if self.channel_sum is None else self.channel_sum / max(1, self.channel_rows)

    @property
    def channel_second_moment(self) -> NDArray[np.float64] | None:
        """E[x_c^2] of each channel, (C,)."""
        return None if self.channel_sum_squares is None else self.channel_sum_squares / max(1, self.channel_rows)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres and weights of the filled bins; the weights sum to one."""
        filled = np.flatnonzero(self.bins)
        centres = (filled + 0.5 - BINS / 2) * (2 * self.reach / BINS)
        weights = self.bins[filled] / max(1, self.bins.sum())
        return centres, weights
