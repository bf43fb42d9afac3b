"""Calls merged into batches, where the model treats the samples of a batch apart from each other.

That is not read off symbolic shapes, which reshapes lose, but shown: two samples that differ run together and one by
one, and every tensor that will be looked at must hold the same two slices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod

import numpy as np

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node

ObserveGraph = Callable[[LpGraph, Sequence[str]], RunFeeds]
BATCH = 8
BATCH_BYTES = 1 << 28  # of the tensors that are looked at; gradients need some three times as much
TOLERANCE = 1e-3  # of the largest magnitude: other kernels sum in another order


def batch_inputs(graph: LpGraph) -> list[str] | None:
    """Inputs whose first axis is symbolic, by one name for all; None unless that are all but the scalars."""
    tensors = [v for v in graph.inputs if v.shape != ()]
    if not tensors or any(not v.shape or isinstance(v.shape[0], int) for v in tensors):
        return None
    names = {v.shape[0] for v in tensors if v.shape}
    return [v.name for v in tensors] if len(names) == 1 else None


def separable_bytes(
    graph: LpGraph,
    tensors: Sequence[str],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    unfolded: Mapping[str, float] | None = None,
) -> int | None:
    """Bytes of all `tensors` for one sample; None unless their first axis counts samples that do not touch each other.

    The first axis of the inputs must be free, too.

    Args:
        graph: of the model.
        tensors: names.
        observe: opens a graph.
        calls: of the model.
        unfolded: tensor -> times its bytes that the unfolded inputs of its layer take; the largest of them is added,
            as one layer's gradient is taken at a time.
    """
    batched = batch_inputs(graph)
    pair = None if batched is None else _two_samples(calls, batched)
    if batched is None or pair is None:
        return None
    run = observe(graph, tensors)
    alone = [run(sample) for sample in pair]
    together = run(
        {k: np.concatenate([p[k] for p in pair]) if k in batched else v for k, v in pair[0].items()}
    )
    if not all(_same(together[t], [a[t] for a in alone]) for t in tensors):
        return None
    columns = max((alone[0][t].nbytes * times for t, times in (unfolded or {}).items()), default=0.0)
    return sum(alone[0][t].nbytes for t in tensors) + int(columns)


def unfolded_times(layer: Node) -> float:
    """Bytes of a convolution's unfolded inputs, a column of K for each position and group, over those of its output."""
    weight = layer.inputs[1] if len(layer.inputs) > 1 else None
    if layer.op != "Conv" or weight is None or not weight.is_constant:
        return 0.0
    return prod(weight.dims[1:]) * int(layer.attrs.get("group", 1)) / weight.dims[0]


def _same(together: np.ndarray, alone: Sequence[np.ndarray]) -> bool:
    if together.ndim == 0 or len(together) != len(alone):
        return False
    for i, expected in enumerate(alone):
        if expected.shape != (1, *together.shape[1:]):
            return False
        a, b = together[i].astype(np.float64), expected[0].astype(np.float64)
        largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        if not np.allclose(a, b, rtol=0, atol=TOLERANCE * largest, equal_nan=True):
            return False
    return True


def _two_samples(calls: Sequence[Feeds], batched: Sequence[str]) -> tuple[Feeds, Feeds] | None:
    """Two neighbours of one shape that differ; the first sample against itself would show nothing."""
    for a, b in pairwise(singles(calls, batched)):
        same_shape = all(a[k].shape == b[k].shape for k in a)
        if same_shape and any(not np.array_equal(a[k], b[k]) for k in batched):
            return a, b
    return None


def singles(calls: Sequence[Feeds], batched: Sequence[str]) -> Iterator[Feeds]:
    """The same samples, one a call."""
    for call in calls:
        for i in range(len(call[batched[0]])):
            yield {k: v[i : i + 1] if k in batched else v for k, v in call.items()}


def batch_size(sample_bytes: int) -> int:
    """Samples in a batch that keep within BATCH and BATCH_BYTES."""
    return max(1, min(BATCH, BATCH_BYTES // max(1, sample_bytes)))


def rebatched(calls: Sequence[Feeds], batched: Sequence[str], size: int = BATCH) -> list[Feeds]:
    """The same samples in batches of up to `size`; a batch ends where shapes or what is not batched change."""
    found: list[Feeds] = []
    held: list[Feeds] = []
    for sample in singles(calls, batched):
        if held and (len(held) == size or not _fits(sample, held[0], batched)):
            found.append(_merged(held, batched))
            held = []
        held.append(sample)
    return [*found, _merged(held, batched)] if held else found


def _fits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], batched: Sequence[str]) -> bool:
    return all(a[k].shape == b[k].shape if k in batched else np.array_equal(a[k], b[k]) for k in a)


def _merged(samples: Sequence[Feeds], batched: Sequence[str]) -> Feeds:
    return {k: np.concatenate([s[k] for s in samples]) if k in batched else v for k, v in samples[0].items()}
