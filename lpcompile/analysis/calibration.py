"""Calibration samples: those that decide, and those held back to judge what was decided."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.errors import CalibrationError

Feeds = dict[str, np.ndarray]
RunFeeds = Callable[[Mapping[str, np.ndarray]], Feeds]
HELD_BACK_SHARE = 8  # one call in eight judges; the rest decide
HELD_BACK_MOST = 16
THREADS = 2


def _one_value(array: np.ndarray, like: np.ndarray) -> bool:
    """Whether every row along the first axis is the first row of another."""
    return array.shape[1:] == like.shape[1:] and bool((array == like[:1]).all())


@dataclass(frozen=True)
class Calibration:
    """Calls of the model, in order.

    Attributes:
        calls: the feeds of each call, as the model takes them.
        source: where they came from, for the report.
        generated: made up here, because the user gave none: good for ranges of tensors, not of channels.
        labels: of the samples of each call, where they were asked for; else empty.
        copies: changed copies of the deciding calls, in their order, that decide beside them (`mirrored_samples`).
    """

    calls: Sequence[Feeds]
    source: str = ""
    generated: bool = False
    labels: Sequence[np.ndarray] = ()
    copies: Sequence[Feeds] = ()

    @property
    def _held(self) -> frozenset[int]:
        n = len(self.calls)
        if n < 4:
            return frozenset()
        wanted = min(HELD_BACK_MOST, max(2, n // HELD_BACK_SHARE))
        return frozenset(int(i) for i in np.linspace(n / wanted / 2, n - 1, wanted).astype(int))

    @property
    def samples(self) -> int:
        """How many there are, where first axes count them; a call without axes is one."""
        return sum(max((len(v) for v in call.values() if v.ndim), default=1) for call in self.calls)

    @property
    def constant_inputs(self) -> list[str]:
        """Inputs of floats that hold the same in every sample, where there are several: ranges fit nothing else.

        An empty one, as what a decoder has seen before its first token, holds nothing.
        """
        first = self.calls[0] if self.samples > 1 else {}
        return [
            n
            for n, a in first.items()
            if a.dtype.kind == "f" and a.ndim and a.size and all(_one_value(c[n], a) for c in self.calls)
        ]

    @property
    def deciding(self) -> list[Feeds]:
        """The calls that decisions may look at."""
        return [*(c for i, c in enumerate(self.calls) if i not in self._held), *self.copies]

    @property
    def deciding_labels(self) -> list[np.ndarray]:
        """The labels of the deciding calls; empty where there are none."""
        own = [a for i, a in enumerate(self.labels) if i not in self._held]
        return own * (2 if self.copies else 1)

    @property
    def judging(self) -> list[Feeds]:
        """The calls that took no part in any decision; with fewer than four calls there is none to spare: all."""
        held = self._held
        return [c for i, c in enumerate(self.calls) if i in held] if held else list(self.calls)

    @property
    def has_held_back(self) -> bool:
        """Whether `judging` is disjoint from `deciding`."""
        return bool(self._held)


def _take_in(pool: Executor, statistics: Mapping[str, TensorStatistics], values: Feeds) -> None:
    """Count the values of one call; each array goes once it is counted, for the next call needs the room."""
    for _ in pool.map(lambda name: statistics[name].update(values.pop(name)), statistics):
        pass


def collect_statistics(
    run: RunFeeds,
    calls: Sequence[Feeds],
    tensors: Sequence[str],
    channel_axes: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, TensorStatistics]:
    """One streamed sweep: statistics of each tensor over the calls.

    Args:
        run: gives at least `tensors` for the feeds of one call.
        calls: the deciding calls.
        tensors: names to observe.
        channel_axes: tensors whose moments per channel are wanted -> the axis of the channels.
        progress: called with (done, total).

    Raises:
        CalibrationError: an activation is not finite.
    """
    axes = channel_axes or {}
    statistics = {t: TensorStatistics(channel_axis=axes.get(t)) for t in tensors}
    # Tensors are independent and numpy releases the interpreter lock: two at a time.
    with ThreadPoolExecutor(THREADS) as pool:
        for done, feeds in enumerate(calls):
            _take_in(pool, statistics, dict(run(feeds)))
            if progress is not None:
                progress(done + 1, len(calls))
    for name, s in statistics.items():
        if not s.finite:
            raise CalibrationError(
                "activation is not finite on the calibration samples",
                where=name,
                hint="check the samples' preprocessing, or the model itself with 'lpcompile run'",
            )
    return statistics
