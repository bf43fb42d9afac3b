"""Samples in batches: joined along the batch axis where the model leaves it open, else whole calls."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph, separable_bytes
from lpcompile.analysis.inputs import Feeds
from lpcompile.ir.graph import LpGraph


class Samples:
    """Calls of the model with what belongs to each of their samples.

    Args:
        calls: feeds of each call, targets among them.
        joined: whether every array may be cut and joined along its first axis.

    Attributes:
        count: of samples where they are joined, else of calls.
    """

    def __init__(self, calls: Sequence[Feeds], *, joined: bool) -> None:
        self.joined = joined
        self._calls = list(calls)
        self._arrays: Feeds = {}
        self._each = max(1, _length(calls[0])) if calls else 1  # samples a call
        if joined and calls:
            self._arrays = {name: np.concatenate([c[name] for c in calls]) for name in calls[0]}
        self.count = _length(self._arrays) if joined else len(self._calls)

    def batches(self, order: Sequence[int] | np.ndarray, size: int) -> Iterator[list[Feeds]]:
        """Batches of about `size` samples in an order, each a list of calls.

        Args:
            order: indices below `count`, each at most once.
            size: samples a batch; the last one may be smaller.
        """
        order = np.asarray(order, np.intp)
        step = self.step(size)
        for first in range(0, len(order), step):
            at = order[first : first + step]
            if self.joined:
                yield [{name: a[at] for name, a in self._arrays.items()}]
            else:
                yield [self._calls[i] for i in at]

    def units(self, feeds: Feeds) -> int:
        """How many of what `count` counts are in the feeds of a call."""
        return _length(feeds) if self.joined else 1

    def batch_count(self, samples: int, size: int) -> int:
        """How many batches so many samples (or calls) make."""
        return -(-samples // self.step(size))

    def step(self, size: int) -> int:
        """How many of what `count` counts make a batch of about `size` samples."""
        return size if self.joined else max(1, round(size / self._each))


def may_join(
    graph: LpGraph,
    calls: Sequence[Feeds],
    outputs: Sequence[Mapping[str, np.ndarray]],
    observe: ObserveGraph,
) -> bool:
    """Whether the samples of several calls make one call, and those of one call several.

    Every array has a first axis that counts samples, other axes agree between calls, and samples do not touch each
    other (`separable_bytes`).

    Args:
        graph: the float graph.
        calls: of it.
        outputs: what it gives, by name, for each call.
        observe: opens it.
    """
    rows = [[*feeds.values(), *out.values()] for feeds, out in zip(calls, outputs, strict=True)]
    if not all(a.ndim for row in rows for a in row):
        return False
    if any(len({len(a) for a in row}) != 1 for row in rows):
        return False
    if any([a.shape[1:] for a in row] != [a.shape[1:] for a in rows[0]] for row in rows):
        return False
    return bool(outputs) and separable_bytes(graph, list(outputs[0]), observe, calls) is not None


def _length(feeds: Mapping[str, np.ndarray]) -> int:
    return next((len(a) for a in feeds.values() if a.ndim), 1)
