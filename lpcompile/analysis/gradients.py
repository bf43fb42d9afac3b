"""Gradients of a loss over calibration calls: which loss, on which batches, fed with what.

A gradient graph is the float graph with nodes added (`autodiff`); it runs through `observe(graph, tensors)` like any
other float graph. Where the samples of a batch are separable, batches are larger and gradients are taken per sample;
else every call is one sample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import (
    ObserveGraph,
    batch_inputs,
    batch_size,
    rebatched,
    separable_bytes,
    singles,
    unfolded_times,
)
from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.analysis.measured import check_labels
from lpcompile.autodiff.losses import (
    Fed,
    Loss,
    LossInput,
    class_tensors,
    ends_in_softmax,
    float_outputs,
    logits_of,
)
from lpcompile.errors import CalibrationError, GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

DRAWS_AT_ONCE = 4  # more make the graph large
RANDOM = ("sampled", "softmax", "probe", "contrast")
FREE_LENGTHS = frozenset(
    {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Unique"}
)  # found in the data
LOSSES = ("auto", "labels", "sampled", "kl", "logits", "probe", "mse")
Progress = Callable[[int, int], None]
Labels = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Samples:
    """Calls as gradients want them.

    Attributes:
        calls: batches of separable samples, or calls that are one sample each.
        per_sample: the first axis of every tensor that is looked at counts samples.
        labels: of each call, or None.
    """

    calls: Sequence[Feeds]
    per_sample: bool
    labels: Labels | None = None

    @property
    def sizes(self) -> list[int]:
        """Samples in each call."""
        if not self.per_sample:
            return [1] * len(self.calls)
        return [next(len(v) for v in call.values() if v.ndim) for call in self.calls]

    @classmethod
    def of(
        cls,
        graph: LpGraph,
        layers: Sequence[str],
        observe: ObserveGraph,
        calls: Sequence[Feeds],
        labels: NDArray[np.int64] | None = None,
        *,
        further: Sequence[str] = (),
    ) -> "Samples":
        """Merge calls where that is sound for the inputs and outputs of `layers` and the outputs of the graph.

        Args:
            graph: the float graph.
            layers: names of nodes.
            observe: opens a graph.
            calls: of the model.
            labels: one a sample, first axis samples in the order of the calls; None where there are none.
            further: names of other tensors for which it must be sound.

        Raises:
            CalibrationError: another number of labels than samples.
        """
        tensors = [v.name for v in float_outputs(graph)]
        tensors += [t for t in further if not graph.value(t).is_input]
        unfolded: dict[str, float] = {}
        for name in layers:
            node = graph.node(name)
            if node.op == "Conv" and node.outputs[0] is not None:
                unfolded[node.outputs[0].name] = unfolded_times(node)
            tensors += [v.name for v in (node.inputs[0], node.outputs[0]) if v is not None and not v.is_input]
        batched = batch_inputs(graph)
        size = separable_bytes(graph, list(dict.fromkeys(tensors)), observe, calls, unfolded)
        if batched is not None:
            alone = list(singles(calls, batched)) if size is None else []
            calls = alone if size is None else rebatched(calls, batched, batch_size(size))
        return cls(calls, size is not None, None if labels is None else _split(labels, calls, batched))


def _split(labels: NDArray[np.int64], calls: Sequence[Feeds], batched: Sequence[str] | None) -> Labels:
    each = len(labels) // max(1, len(calls)) if labels.ndim else 0
    counts = [each if batched is None else len(c[batched[0]]) for c in calls]
    if labels.ndim == 0 or len(labels) != sum(counts):
        raise CalibrationError(
            f"{len(labels) if labels.ndim else 0} labels for {sum(counts)} samples",
            hint="give one label a sample, in the order of the samples",
        )
    ends = np.cumsum(counts)
    return [labels[end - n : end] for end, n in zip(ends, counts, strict=True)]


@dataclass(frozen=True)
class Head:
    """A loss that was chosen for a graph.

    Attributes:
        kind: of `autodiff.losses`.
        tensors: where it is read.
        scales: factors of its gradients.
        shown: what to call it in a report.
    """

    kind: str
    tensors: tuple[str, ...]
    scales: Mapping[str, float] = field(default_factory=dict)
    shown: str = ""

    def draws_in_one_run(self, draws: int) -> int:
        """How many random functionals one run is to have of `draws`: the forward part is shared by them."""
        return min(draws, DRAWS_AT_ONCE) if self.kind in RANDOM else 1


def choose_head(graph: LpGraph, loss: str, observe: ObserveGraph, samples: Samples) -> Head:
    """The head for a loss by its name; its second order is what a change of the weights costs.

    ==========  ===============================================================================================
    `auto`      `kl` where all float outputs end in a softmax, else `probe`
    `labels`    cross-entropy on the labels given
    `sampled`   cross-entropy on labels drawn from the model's own softmax; its Fisher matrix is the Hessian of KL
    `kl`        the same matrix by random signs, which need far fewer draws; bare outputs count as logits
    `probe`     noise power of the outputs over their signal power (1/SQNR), the mean over outputs
    `logits`    the same of what the last softmax reads, less the mean over classes, where all float outputs end in one:
                a saturated softmax hides errors of one sample that are large for another
    `mse`       squared error of the outputs
    ==========  ===============================================================================================

    Raises:
        GradientError: no classes for a loss that needs them, or no float output.
        CalibrationError: labels are missing, of another shape or no classes.
    """
    assert loss in LOSSES, loss
    outputs = float_outputs(graph)
    if not outputs:
        raise GradientError(
            "the model has no float output, so no loss", hint="analyse the model before ArgMax"
        )
    if loss == "auto":
        loss = "kl" if ends_in_softmax(graph) else "probe"
    if loss == "logits":
        logits = read_logits(outputs)
        if logits is None:
            loss = "probe"
        else:
            scales = _scales(logits, observe(graph, logits), samples, loss, contrast=True)
            return Head("contrast", tuple(logits), scales, loss)
    if loss in ("probe", "mse"):
        names = tuple(v.name for v in outputs)
        return Head("probe", names, _scales(names, observe(graph, names), samples, loss), loss)
    tensors = class_tensors(graph, bare=True)
    if loss == "labels":
        tensors = tensors[:1]
        if samples.labels is None:
            raise CalibrationError(
                "loss 'labels' without labels", hint="give them with --labels, or --loss kl"
            )
        run = observe(graph, [tensors[0].name])
        for call, label in zip(samples.calls, samples.labels, strict=True):
            check_labels(label, run(call)[tensors[0].name].shape)
    kind = {"kl": "softmax"}.get(loss, loss)
    return Head(kind, tuple(v.name for v in tensors), {}, loss)


def read_logits(outputs: Sequence[Value]) -> list[str] | None:
    """What the softmax of each output reads; None unless every one of them has one."""
    found = [logits_of(v) for v in outputs]
    names = [v.name for v in found if v is not None]
    return names if outputs and len(names) == len(outputs) else None


def centred(x: NDArray[Any]) -> NDArray[np.float64]:
    """Logits in float64 less their mean over the classes, which no softmax sees."""
    wide = x.astype(np.float64)
    return np.asarray(wide - wide.mean(axis=-1, keepdims=True))


def _scales(
    names: Sequence[str], run: RunFeeds, samples: Samples, loss: str, *, contrast: bool = False
) -> dict[str, float]:
    if loss == "mse":
        return {}
    power, count = dict.fromkeys(names, 0.0), 0
    for call, size in zip(samples.calls, samples.sizes, strict=True):
        values = run(call)
        count += size
        for name in names:
            x = centred(values[name]) if contrast else values[name].astype(np.float64)
            power[name] += float(np.square(x).sum())
    alive = [n for n in names if power[n] > 0]
    return {n: float(np.sqrt(count / (power[n] * len(names)))) if n in alive else 1.0 for n in names}


class Sweep:
    """Runs a gradient graph over all calls and draws.

    Args:
        graph: the float graph, for shapes and references.
        gradient_graph: a copy of it with losses and gradients.
        losses: the heads in it, one a draw.
        tensors: what is wanted of each run.
        observe: opens a graph.
        samples: what it runs on.
        seed: of every draw; the same for every sweep, so that chunks of layers see the same losses.
    """

    def __init__(
        self,
        graph: LpGraph,
        gradient_graph: LpGraph,
        losses: Sequence[Loss],
        tensors: Sequence[str],
        observe: ObserveGraph,
        samples: Samples,
        seed: int,
    ) -> None:
        self._losses, self._samples, self._seed = losses, samples, seed
        read = list(dict.fromkeys(i.of for i in losses[0].inputs if i.fed is not Fed.LABELS))
        self._forward = observe(graph, read) if read else None
        self._types = {x.name: gradient_graph.value(x.name).dtype for loss in losses for x in loss.inputs}
        self._shapes: dict[object, dict[str, tuple[int, ...]]] = {}
        self._free = any(n.op in FREE_LENGTHS for n in graph.nodes())
        self._run = observe(gradient_graph, tensors)

    def runs(
        self, draws: int = 1, extra: Mapping[str, NDArray[np.float32]] | None = None
    ) -> Iterator[tuple[int, Feeds]]:
        """(index of the call, tensors) for every call, as often as makes at least `draws` random functionals each.

        Args:
            draws: of the random inputs.
            extra: further inputs of the gradient graph.
        """
        kind, count = self._losses[0].kind, len(self._losses)
        rounds = -(-draws // count) if kind in RANDOM else 1
        for i, call in enumerate(self._samples.calls):
            fed = self._fed(i, call, rounds * count)
            for start in range(0, rounds * count, count):
                own = {
                    x.name: np.asarray(draw[k], self._types[x.name])
                    for loss, draw in zip(self._losses, fed[start : start + count], strict=True)
                    for k, x in enumerate(loss.inputs)
                }
                yield i, self._run({**call, **own, **(extra or {})})

    def _fed(self, i: int, call: Feeds, draws: int) -> list[list[NDArray[Any]]]:
        """What the inputs of a head take, for each draw."""
        inputs = self._losses[0].inputs
        if inputs and inputs[0].fed is Fed.REFERENCE:
            assert self._forward is not None
            values = self._forward(call)
            return [[values[x.of] for x in inputs]]
        if inputs and inputs[0].fed is Fed.LABELS:
            assert self._samples.labels is not None
            return [[np.asarray(self._samples.labels[i], np.int64)]]
        rng = np.random.default_rng([self._seed, i])
        if self._losses[0].kind == "softmax" and draws > 1:
            assert self._forward is not None
            values = self._forward(call)
            columns = [balanced_signs(values[x.of], draws, rng) for x in inputs]
            return [[c[d] for c in columns] for d in range(draws)]
        shapes = self._shapes_of(call)
        return [[_drawn(x, shapes[x.of], rng) for x in inputs] for _ in range(draws)]

    def _shapes_of(self, call: Feeds) -> dict[str, tuple[int, ...]]:
        """Where shapes follow from those of the inputs, one forward run tells them for all calls of these shapes."""
        key = tuple((k, v.shape) for k, v in sorted(call.items()))
        if self._free or key not in self._shapes:
            values = {} if self._forward is None else self._forward(call)
            self._shapes[key] = {k: v.shape for k, v in values.items()}
        return self._shapes[key]


def _drawn(x: LossInput, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    if x.fed is Fed.SIGNS:
        return np.asarray(rng.integers(0, 2, shape) * 2 - 1, np.float32)
    return np.asarray(rng.gumbel(size=shape), np.float32)


def balanced_signs(logits: NDArray[Any], draws: int, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Signs whose products for any two of the `draws` most probable classes sum to zero over the draws.

    Independent draws leave these cross terms in, which are most of the variance: two classes share most of the
    probability of nearly every sample. Each draw by itself is one of random signs still, so nothing is biased.
    """
    table = hadamard(draws)
    place = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1) % table.shape[1]
    signs = (rng.integers(0, 2, logits.shape) * 2 - 1).astype(np.float32)
    return [signs * row[place] for row in table]


def hadamard(rows: int) -> NDArray[np.float32]:
    """The first rows of Sylvester's matrix of the next power of two: orthogonal columns where all rows are taken."""
    table = np.ones((1, 1), np.float32)
    while len(table) < rows:
        table = np.block([[table, table], [table, -table]])
    return table[:rows]


def check_finite(values: NDArray[np.floating], where: str) -> None:
    """Whether gradients are numbers.

    Raises:
        GradientError: one is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise GradientError(
            "its gradient is NaN or infinite on the calibration samples",
            where=where,
            hint="measure instead: --method measured; or mend the samples or the model",
        )
