"""Mean and variance of each channel of a tensor, in float64, call by call."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F64


@dataclass
class ChannelMoments:
    """Streamed moments; batches are merged by their counts, so that large means take nothing from small variances.

    Attributes:
        trailing: axes after that of the channels.
        count: numbers of each channel so far.
        mean: (C,).
    """

    trailing: int
    count: int = 0
    mean: F64 = field(default_factory=lambda: np.zeros(0))
    _squares: F64 = field(default_factory=lambda: np.zeros(0))  # summed distances from the mean

    @np.errstate(invalid="ignore")  # of infinite numbers: NaN tells
    def add(self, values: NDArray[np.float32]) -> None:
        """Take in the tensor of one call, rank > `trailing`."""
        rows = np.moveaxis(values, values.ndim - 1 - self.trailing, 0).astype(np.float64)
        rows = rows.reshape(len(rows), -1)
        if not rows.shape[1]:
            return
        mean = rows.mean(axis=1)
        squares = np.square(rows - mean[:, None]).sum(axis=1)
        if not self.count:
            self.count, self.mean, self._squares = rows.shape[1], mean, squares
            return
        total = self.count + rows.shape[1]
        apart = mean - self.mean
        self.mean = self.mean + apart * (rows.shape[1] / total)
        self._squares = self._squares + squares + np.square(apart) * (self.count * rows.shape[1] / total)
        self.count = total

    @property
    def deviation(self) -> F64:
        """(C,) standard deviations."""
        found: F64 = np.sqrt(self._squares / max(1, self.count))
        return found
