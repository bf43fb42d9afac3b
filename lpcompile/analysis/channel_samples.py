"""Numbers of some tensors over the calibration calls, channel by channel: a sample of positions, and the range.

The range is that of every other call, the sample comes from the others (from all where there is one call), so that
what a static range clips on inputs it has not seen shows in the sample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64

POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class ChannelSample:
    """What is known of the channels of a tensor.

    Attributes:
        values: (C, positions); the same positions in each row.
        low, high: (C,), of the calls that the range comes from.
        peak: (C,), largest value of all calls.
    """

    values: F32
    low: F64
    high: F64
    peak: F64

    @property
    def mean_magnitude(self) -> F64:
        """E|x_c|, (C,)."""
        return np.asarray(np.abs(self.values).mean(1, dtype=np.float64))

    @property
    def largest(self) -> F64:
        """Max |x_c|, (C,), over all that was seen."""
        seen = np.abs(self.values).max(1, initial=0).astype(np.float64)
        ends = np.maximum(np.abs(self.low), np.abs(self.high))
        return np.asarray(np.maximum(ends, np.maximum(self.peak, seen)))


class ChannelSampler:
    """The sample of one tensor while calls come in.

    Args:
        axis: of its channels; None: they count as one.
        calls: how many will come.
        positions: of the sample.
    """

    def __init__(self, axis: int | None, calls: int, positions: int = POSITIONS) -> None:
        self._axis, self._calls, self._positions = axis, calls, positions
        self._taken: list[F32] = []
        self._ranges: list[tuple[F32, F32]] = []

    def add(self, x: NDArray[np.generic], rng: np.random.Generator) -> None:
        """Count one call; `rng` chooses positions."""
        planes = np.asarray(x, np.float32)
        planes = planes[None] if self._axis is None else np.moveaxis(planes, self._axis, 0)
        rows = planes.reshape(len(planes), -1)  # (C, positions)
        self._ranges.append((rows.min(1, initial=0), rows.max(1, initial=0)))
        if len(self._ranges) % 2 == 0 or self._calls == 1:
            wanted = min(rows.shape[1], -(-self._positions // max(1, self._calls // 2)))
            at = np.sort(rng.choice(rows.shape[1], wanted, replace=False))
            self._taken.append(rows[:, at])

    def result(self) -> ChannelSample:
        """What was seen."""
        lows, highs = (np.stack(side).astype(np.float64) for side in zip(*self._ranges, strict=True))
        taken = np.concatenate(self._taken, 1)
        return ChannelSample(taken, lows[::2].min(0), highs[::2].max(0), highs.max(0))
