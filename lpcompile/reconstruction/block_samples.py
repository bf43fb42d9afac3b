"""What comes into a block and what shall come out of it, for every sample.

Inputs twice: as the float model has them, and as the network has them whose earlier layers are rounded already.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from lpcompile.analysis.batches import TOLERANCE, ObserveGraph, batch_inputs, rebatched, singles
from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.reconstruction.block_graph import BlockGraph
from lpcompile.reconstruction.blocks import Block
from lpcompile.tuning.batches import Samples

FLOAT = "/float"  # suffix of the name under which the float model's value of an input is kept


@dataclass(frozen=True)
class Batching:
    """How samples of a model may be cut and joined at some of its tensors.

    Attributes:
        batched: tensors whose first axis counts samples that do not touch each other; None: every call is one sample.
        inputs: the same of graph inputs.
    """

    batched: frozenset[str] | None
    inputs: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, graph: LpGraph, tensors: Sequence[str], observe: ObserveGraph, calls: Sequence[Feeds]
    ) -> "Batching":
        """Shown by two samples, together and one by one: each tensor holds two slices, or is the same for both."""
        inputs = batch_inputs(graph)
        pair = None if inputs is None else _two_samples(calls, inputs)
        if inputs is None or pair is None:
            return cls(None)
        run = observe(graph, tensors)
        alone = [run(sample) for sample in pair]
        together = run(
            {k: np.concatenate([p[k] for p in pair]) if k in inputs else v for k, v in pair[0].items()}
        )
        batched = set()
        for t in tensors:
            a, b, c = alone[0][t], alone[1][t], together[t]
            if a.ndim and a.shape == b.shape and len(a) == 1 and c.shape == (2, *a.shape[1:]):
                if not _near(c, np.concatenate([a, b])):
                    return cls(None)
                batched.add(t)
            elif not (a.shape == b.shape == c.shape and _near(a, b) and _near(a, c)):
                return cls(None)
        return cls(frozenset(batched), tuple(inputs))

    def calls(self, calls: Sequence[Feeds], size: int) -> list[Feeds]:
        """The samples, one a call where they do not touch, in batches of a size."""
        if self.batched is None:
            return list(calls)
        return rebatched(calls, self.inputs, size)


def _two_samples(calls: Sequence[Feeds], inputs: Sequence[str]) -> tuple[Feeds, Feeds] | None:
    for a, b in islice(pairwise(singles(calls, inputs)), 64):
        if all(a[k].shape == b[k].shape for k in a) and any(not np.array_equal(a[k], b[k]) for k in inputs):
            return a, b
    return None


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return np.allclose(a, b, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


@dataclass(frozen=True)
class KeepShape:
    """Shape of what says where a rounding is kept.

    Attributes:
        one: of one sample (or of every call).
        axis: along which samples are joined; None: they are not.
    """

    one: tuple[int, ...]
    axis: int | None = None

    def of(self, samples: int) -> tuple[int, ...]:
        """For so many samples."""
        return tuple(n * samples if i == self.axis else n for i, n in enumerate(self.one))


def keep_shapes(
    graph: LpGraph, tensors: Sequence[str], batching: Batching, observe: ObserveGraph, calls: Sequence[Feeds]
) -> dict[str, KeepShape]:
    """Shapes of inner tensors; those that are not told by two samples are left out."""
    if not tensors:
        return {}
    run = observe(graph, tensors)
    if batching.batched is None:
        a, b = run(calls[0]), run(calls[-1])
        fixed = all(v.shape == calls[0][k].shape for call in calls for k, v in call.items())
        return {t: KeepShape(a[t].shape) for t in tensors if fixed and a[t].shape == b[t].shape}
    one, two = (run(batching.calls(calls[:2] if len(calls) > 1 else calls, n)[0]) for n in (1, 2))
    found = {}
    for t in tensors:
        s, d = one[t].shape, two[t].shape
        axes = [i for i, (m, n) in enumerate(zip(s, d, strict=False)) if m != n]
        if len(s) == len(d) and (not axes or (len(axes) == 1 and d[axes[0]] == 2 * s[axes[0]])):
            found[t] = KeepShape(s, axes[0] if axes else None)
    return found


@dataclass
class BlockSamples:
    """Feeds of a block's graph for every sample.

    Attributes:
        samples: by graph input; float inputs under the name of the input with FLOAT.
        constants: what is the same for all.
        mixed: graph inputs that exist twice.
        signal: output -> mean over samples of the sum of its squares.
    """

    samples: Samples
    constants: Feeds
    mixed: tuple[str, ...]
    signal: dict[str, float]


def gather(
    graph: BlockGraph,
    block: Block,
    batching: Batching,
    calls: Sequence[Feeds],
    exact: RunFeeds,
    rounded: RunFeeds,
    weights: Callable[[Sequence[Feeds]], Sequence[Mapping[str, F32]]] | None,
    most_bytes: int,
) -> BlockSamples:
    """Run the model before a block, as floats and rounded.

    Args:
        graph: of the block.
        block: what it is.
        batching: of the model.
        calls: of the model.
        exact: gives inputs, side and outputs of the block in the float model.
        rounded: gives its inputs in the network as it is rounded so far.
        weights: for calls, what the errors of the outputs are multiplied by; None: they are not.
        most_bytes: fewer calls are looked at, spread evenly, where all would take more.
    """
    calls = _fitting(calls, _bytes_of_call(graph, block, calls[0], exact), most_bytes)
    factors = weights(calls) if weights is not None else []
    joined = batching.batched is not None
    batched = batching.batched or frozenset()
    constants: Feeds = {}
    rows: list[Feeds] = []
    power, count = dict.fromkeys(graph.targets, 0.0), 0
    for i, call in enumerate(calls):
        floats, codes = exact(call), rounded(call) if block.inputs else {}
        row: Feeds = {}
        for name in block.inputs:
            row[graph.fed[name]] = codes[name]
            row[graph.fed[name] + FLOAT] = floats[name]
        for name in block.side:
            if joined and name not in batched:
                constants[graph.fed[name]] = floats[name]
            else:
                row[graph.fed[name]] = floats[name]
        for name, target in graph.targets.items():
            wanted = floats[name]
            if name in graph.weights:
                factor = factors[i].get(name)
                row[graph.weights[name]] = factor = np.ones_like(wanted) if factor is None else factor
                wanted = wanted * factor
            row[target] = wanted
            power[name] += float(np.vdot(wanted, wanted))
        rows.append({k: np.ascontiguousarray(v) for k, v in row.items()})
        count += len(row[next(iter(graph.targets.values()))]) if joined else 1
    tiny = float(np.finfo(np.float32).tiny)
    signal = {name: max(p / max(1, count), tiny) for name, p in power.items()}
    mixed = tuple(graph.fed[n] for n in block.inputs)
    return BlockSamples(Samples(rows, joined=joined), constants, mixed, signal)


def _bytes_of_call(graph: BlockGraph, block: Block, call: Feeds, exact: RunFeeds) -> int:
    floats = exact(call)
    twice = {*block.inputs, *(graph.weights and block.outputs)}
    return sum(v.nbytes * (2 if name in twice else 1) for name, v in floats.items())


def _fitting(calls: Sequence[Feeds], each: int, most_bytes: int) -> Sequence[Feeds]:
    """All calls, or some of them; joining samples holds them twice."""
    count = max(4, most_bytes // max(1, 2 * each))
    if count >= len(calls):
        return calls
    return [calls[i] for i in np.unique(np.linspace(0, len(calls) - 1, count).round().astype(int))]
