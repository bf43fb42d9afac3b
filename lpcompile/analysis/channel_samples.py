"""Numbers of some tensors over the calibration calls, channel by channel: a sample of positions, and the range.

The range is that of every other call, the sample comes from the others (from all where there is one call), so that
what a static range clips on inputs it has not seen shows in the sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.calibration import Feeds, RunFeeds
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


def sample_channels(
    run: RunFeeds, calls: Sequence[Feeds], axes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, ChannelSample]:
    """One sweep.

    Args:
        run: gives the tensors for the feeds of one call.
        calls: the deciding calls.
        axes: tensor -> axis of its channels.
        rng: chooses positions.
    """
    taken: dict[str, list[F32]] = {t: [] for t in axes}
    ranges: dict[str, list[tuple[F32, F32]]] = {t: [] for t in axes}
    drawing = max(1, len(calls) // 2)
    for i, feeds in enumerate(calls):
        values = run(feeds)
        for name, axis in axes.items():
            planes = np.moveaxis(values[name], axis, 0)
            rows = planes.reshape(len(planes), -1)  # (C, positions)
            ranges[name].append((rows.min(1, initial=0), rows.max(1, initial=0)))
            if i % 2 or len(calls) == 1:
                wanted = min(rows.shape[1], -(-POSITIONS // drawing))
                at = np.sort(rng.choice(rows.shape[1], wanted, replace=False))
                taken[name].append(rows[:, at].astype(np.float32))
    found = {}
    for name in axes:
        lows, highs = (np.stack(side).astype(np.float64) for side in zip(*ranges[name], strict=True))
        found[name] = ChannelSample(
            np.concatenate(taken[name], 1), lows[::2].min(0), highs[::2].max(0), highs.max(0)
        )
    return found
