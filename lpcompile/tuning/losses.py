"""What retraining makes small: the distance of a model's outputs from the float model's, or from labels.

`mse`            mean (y - t)^2 / mean t^2: noise over signal of an output, of its logits where it is a softmax
`kl`             sum_c p_c (log p_c - log q_c), mean over samples (and positions); p of the float model, q = softmax(z)
`cross-entropy`  `kl` with p one-hot of the labels

Gradients start at z or y: (q - p) / rows and 2 (y - t) / (size mean t^2). [hinton2015]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.inputs import Feeds
from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.errors import CalibrationError, GradientError
from lpcompile.formats.arrays import F32
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

LOSSES = ("auto", "kl", "mse", "cross-entropy")
_TINY = float(np.finfo(np.float32).tiny)
_NORMALISED = ("Softmax", "LogSoftmax")


@dataclass(frozen=True, slots=True)
class Head:
    """One tensor that is compared.

    Attributes:
        output: index among the graph's outputs.
        kind: "kl" or "mse".
        axis: of the classes, negative; "mse" does not ask for it.
        normalised: the output is a (log-)softmax, and the tensor before it is compared.
    """

    output: int
    kind: str
    axis: int = -1
    normalised: bool = False

    def tensor(self, graph: LpGraph) -> Value:
        """The tensor in a graph with these outputs."""
        value = graph.outputs[self.output]
        if not self.normalised:
            return value
        producer = value.producer
        assert producer is not None
        source = producer.inputs[0]
        assert source is not None
        return source


def heads_of(graph: LpGraph, loss: str) -> list[Head]:
    """What is compared under a loss, one of LOSSES.

    All float outputs, before their softmax where they have one; "cross-entropy" takes the first that has classes.
    "auto" is "mse": of few samples, logits teach more than the probabilities of the likeliest classes. Measured with
    fixp4 and posit4 weights and 160 samples, output SQNR of ds_cnn 23.1 dB (kl: 19.6), top-1 of resnet20 0.803 (0.796).

    Raises:
        GradientError: no output fits.
    """
    found = []
    for i, value in enumerate(graph.outputs):
        if value.dtype is not None and not is_float(value.dtype):
            continue
        axis = _softmax_axis(value)
        rank = None if value.shape is None else len(value.shape)
        classes = -1 if rank is None or rank <= 3 else 1 - rank  # second of (N, C, *spatial)
        kind = "kl" if loss in ("kl", "cross-entropy") else "mse"
        if axis is not None:
            found.append(Head(i, kind, axis, normalised=True))
        elif kind == "mse" or rank is None or rank >= 2:
            found.append(Head(i, kind, classes))
    if not found:
        raise GradientError(
            f"no output can be compared by the loss '{loss}'",
            hint="retraining needs a float output; 'kl' and 'cross-entropy' need classes on an axis",
        )
    return found[:1] if loss == "cross-entropy" else found


def _softmax_axis(value: Value) -> int | None:
    """The axis of the softmax that fills a tensor, counted from the end; None where none does."""
    node = value.producer
    if node is None or node.domain or node.op not in _NORMALISED or value.shape is None:
        return None
    axis = int(node.attrs.get("axis", -1))
    return axis if axis < 0 else axis - len(value.shape)


def add_loss(
    graph: LpGraph, heads: Sequence[Head], powers: Sequence[float]
) -> tuple[Value, dict[str, Value], list[str]]:
    """Add the loss to a graph.

    Args:
        graph: it is added to; targets become inputs of it.
        heads: what is compared.
        powers: mean square of each head's target, for "mse".

    Returns:
        The loss, a float32 scalar; name of each compared tensor -> gradient of the loss; names of the targets, in
        the order of the heads.
    """
    builder = GradientBuilder(graph, "loss")
    parts: list[Value] = []
    seeds: dict[str, Value] = {}
    targets = []
    for head, power in zip(heads, powers, strict=True):
        y = head.tensor(graph)
        target = graph.add_input(graph.fresh("loss/target"), np.dtype(np.float32), y.shape or ())
        targets.append(target.name)
        part, seed = (
            _divergence(builder, y, target, head.axis)
            if head.kind == "kl"
            else _error(builder, y, target, power)
        )
        graph.set_type(seed, np.dtype(np.float32), y.shape)
        parts.append(part)
        seeds[y.name] = builder.add(seeds[y.name], seed) if y.name in seeds else seed
    total = parts[0]
    for part in parts[1:]:
        total = builder.add(total, part)
    graph.set_type(total, np.dtype(np.float32), ())
    return total, seeds, targets


def _divergence(b: GradientBuilder, z: Value, p: Value, axis: int) -> tuple[Value, Value]:
    classes = b.op("Gather", b.op("Shape", z), b.constant(np.asarray(axis)), axis=0)
    rows = b.cast(b.op("Div", b.op("Size", z), classes), np.dtype(np.float32))
    log_p = b.op("Log", b.op("Max", p, b.constant(np.float32(_TINY))))
    gaps = b.op("Mul", p, b.op("Sub", log_p, b.op("LogSoftmax", z, axis=axis)))
    loss = b.op("Div", b.op("ReduceSum", gaps, keepdims=0), rows)
    return loss, b.op("Div", b.op("Sub", b.op("Softmax", z, axis=axis), p), rows)


def _error(b: GradientBuilder, y: Value, t: Value, power: float) -> tuple[Value, Value]:
    gap = b.op("Sub", y, t)
    size = b.cast(b.op("Size", y), np.dtype(np.float32))
    scaled = b.op("Mul", size, b.constant(np.float32(max(power, _TINY))))
    loss = b.op("Div", b.op("ReduceSumSquare", gap, keepdims=0), scaled)
    return loss, b.op("Div", b.op("Mul", gap, b.constant(np.float32(2))), scaled)


def soft_target(head: Head, output: F32) -> F32:
    """What a head is compared with, from the float model's tensor: itself, or probabilities."""
    if head.kind == "mse":
        return np.asarray(output, np.float32)
    z = output.astype(np.float64)
    e = np.exp(z - z.max(head.axis, keepdims=True))
    return np.asarray(e / e.sum(head.axis, keepdims=True), np.float32)


def label_targets(head: Head, outputs: Sequence[F32], labels: Sequence[np.ndarray], where: str) -> list[F32]:
    """One-hot probabilities of the labels of each call.

    Args:
        head: of kind "kl".
        outputs: the float model's tensor in each call.
        labels: class numbers, of the shape of an output without its class axis.
        where: names the samples, for messages.

    Raises:
        CalibrationError: no labels, another shape, no whole numbers, or out of range.
    """
    if len(labels) != len(outputs):
        raise CalibrationError(
            "the loss 'cross-entropy' needs labels, and the samples bring none",
            where=where,
            hint="add an array 'labels' to the samples, name another with --labels, or use the loss 'kl'",
        )
    made = []
    for output, given in zip(outputs, labels, strict=True):
        classes = output.shape[head.axis]
        shape = tuple(n for i, n in enumerate(output.shape) if i != output.ndim + head.axis)
        found = np.asarray(given)
        if found.dtype.kind not in "iu" and not (found.dtype.kind == "f" and (found == np.rint(found)).all()):
            raise CalibrationError(
                f"labels are class numbers, not {found.dtype}", where=where, hint="give whole numbers from 0"
            )
        if found.size != int(np.prod(shape)):
            raise CalibrationError(
                f"labels of shape {found.shape} for an output of shape {output.shape}",
                where=where,
                hint="give one class number for each sample",
            )
        found = found.reshape(shape).astype(np.int64)
        if found.size and (found.min() < 0 or found.max() >= classes):
            raise CalibrationError(
                f"label {int(found.min() if found.min() < 0 else found.max())} is out of range 0..{classes - 1}",
                where=where,
                hint="labels are class numbers as the model's output counts them",
            )
        one_hot = np.eye(classes, dtype=np.float32)[found]
        made.append(np.ascontiguousarray(np.moveaxis(one_hot, -1, head.axis)))
    return made


def head_targets(
    heads: Sequence[Head],
    outputs: Sequence[Sequence[F32]],
    labels: Sequence[np.ndarray] | None,
    where: str,
) -> list[list[F32]]:
    """What each head is compared with in each call.

    Args:
        heads: one, where there are labels.
        outputs: the float model's tensors, by call and head.
        labels: of each call; None learns from the float model.
        where: names the samples, for messages.

    Raises:
        CalibrationError: labels are missing, out of range or of another shape.
    """
    if labels is not None:
        return [[t] for t in label_targets(heads[0], [o[0] for o in outputs], labels, where)]
    return [[soft_target(h, y) for h, y in zip(heads, call, strict=True)] for call in outputs]


def join_targets(feeds: Feeds, names: Sequence[str], targets: Sequence[F32]) -> Feeds:
    """The feeds of a call with its targets."""
    return {**feeds, **dict(zip(names, targets, strict=True))}
