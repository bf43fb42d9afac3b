"""Loss heads: nodes that give the gradient of a loss at the tensors where it is read, and inputs that feed it.

Every loss is a sum over samples (and tokens), never a mean, so that the gradient of a batch is the sum of the
gradients of its samples. Random numbers come in as inputs: the graph itself is deterministic.

==========  ============================================================  ====================================
kind        gradient at its tensor t, p = softmax(t) over the last axis   what E[g g^T] is
==========  ============================================================  ====================================
`labels`    p - onehot(label)                                             Fisher of the labels (empirical)
`sampled`   p - onehot(argmax(t + gumbel)): a label drawn from p          diag(p) - p p^T: the Fisher matrix
`softmax`   sqrt(p) e - p sum(sqrt(p) e), e = +-1                         the same, with far less variance
`kl`        p - softmax(reference)                                        (zero at the float weights)
`mse`       2 (t - reference)                                             (zero at the float weights)
`probe`     v, v = +-scale                                                scale^2 I: Gauss-Newton of |t - t0|^2
`contrast`  v - mean(v) over the last axis, v = +-scale                   the same of differences of logits
`output`    1, or the weights fed                                         (of one linear functional)
==========  ============================================================  ====================================

The Hessian of KL(float || model) in t at the float weights is diag(p) - p p^T, so 1/2 E<g, dt>^2 is that divergence
to second order. A label drawn from a confident p shows its Fisher information once in 1/(1 - max p) draws and hugely
then; the random signs show it in every draw. [architecture 5; papers/mixed-posit 2.7]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.errors import GradientError
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

KINDS = ("labels", "sampled", "softmax", "kl", "mse", "probe", "contrast", "output")
ON_LOGITS = ("labels", "sampled", "softmax", "kl")


class Fed(StrEnum):
    """What an input of a loss head wants to be fed."""

    LABELS = "labels"  # int64, the shape of the tensor without its last axis
    GUMBEL = "gumbel"  # standard Gumbel noise
    SIGNS = "signs"  # -1 or +1, equally likely
    REFERENCE = "reference"  # the tensor as the float model gives it
    WEIGHTS = "weights"  # of a linear functional


@dataclass(frozen=True, slots=True)
class LossInput:
    """An input that a loss head added.

    Attributes:
        name: of the graph input.
        fed: what it takes.
        of: the tensor of the graph whose shape (but for LABELS) it has.
    """

    name: str
    fed: Fed
    of: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss head.

    Attributes:
        kind: one of KINDS.
        seeds: tensor -> gradient of the loss there, for `autodiff.reverse.add_gradients`.
        inputs: what must be fed beside the model's own inputs.
        value: the loss itself, a scalar; None for the kinds that are gradients of nothing but a random functional.
    """

    kind: str
    seeds: Mapping[str, Value]
    inputs: Sequence[LossInput]
    value: Value | None


def float_outputs(graph: LpGraph) -> list[Value]:
    """Floats that tell what the outputs are: outputs of floats, and what others are read off, as by an ArgMax.

    Of an output that is converted from one float type to another, what is converted. Floats behind an output of
    integers count only where no output of floats is made of them.
    """
    found = {v.name: v for v in map(_unconverted, filter(_holds_floats, graph.outputs))}
    known = _made_of(list(found.values()), through=lambda _: True)
    for output in graph.outputs:
        if not _holds_floats(output):
            behind = _made_of([output], through=lambda v: not _holds_floats(v))
            found |= {n: v for n, v in behind.items() if _holds_floats(v) and n not in known}
    return list(found.values())


def _holds_floats(value: Value) -> bool:
    return value.dtype is not None and is_float(value.dtype)


def _unconverted(value: Value) -> Value:
    node = value.producer
    while node is not None and not node.domain and node.op == "Cast":
        source = node.inputs[0]
        if source is None or source.producer is None or not _holds_floats(source):
            break
        value, node = source, source.producer
    return value


def _made_of(values: Sequence[Value], through: Callable[[Value], bool]) -> dict[str, Value]:
    """Computed tensors that these are made of, nearest first, looking behind those that `through` lets pass."""
    found: dict[str, Value] = {}
    front = list(values)
    for value in front:
        node = value.producer if through(value) else None
        if node is None or node.op in ("Shape", "Size"):  # these read no values
            continue
        for source in node.inputs:
            if source is not None and source.producer is not None and source.name not in found:
                found[source.name] = source
                front.append(source)
    return found


def logits_of(output: Value) -> Value | None:
    """What a Softmax or LogSoftmax over the last axis reads, where one makes this output."""
    node = output.producer
    if node is None or node.domain or node.op not in ("Softmax", "LogSoftmax") or node.inputs[0] is None:
        return None
    axis, rank = int(node.attrs.get("axis", -1)), rank_of(output) or rank_of(node.inputs[0])
    last = axis == -1 or (rank is not None and axis == rank - 1)
    return node.inputs[0] if last else None


def ends_in_softmax(graph: LpGraph) -> bool:
    """Whether every float output comes from a Softmax over its last axis."""
    outputs = float_outputs(graph)
    return bool(outputs) and all(logits_of(v) is not None for v in outputs)


def class_tensors(graph: LpGraph, *, bare: bool) -> list[Value]:
    """Logits of the classifying outputs: of those with a Softmax, or with `bare` the outputs themselves.

    Raises:
        GradientError: there is none.
    """
    outputs = float_outputs(graph)
    found = [v for v in map(logits_of, outputs) if v is not None]
    if not found and bare:
        found = [v for v in outputs if _classes(v)]
    if not found:
        raise GradientError(
            "no output gives classes: none ends in a Softmax over its last axis",
            where=", ".join(v.name for v in graph.outputs),
            hint="use --loss probe, which asks for nothing but a float output",
        )
    return found


def _classes(value: Value) -> bool:
    shape = value.shape
    return shape is not None and len(shape) >= 2 and shape[-1] != 1


def add_loss(
    graph: LpGraph,
    kind: str,
    tensors: Sequence[str],
    *,
    scales: Mapping[str, float] | None = None,
    weighted: bool = False,
    prefix: str = "loss",
) -> Loss:
    """Add the head of a loss to a graph.

    Args:
        graph: with shapes inferred; nodes and inputs are added, nothing in it changes.
        kind: one of KINDS.
        tensors: where it is read: logits for ON_LOGITS (see `class_tensors`), else float tensors, mostly outputs.
        scales: of "probe" and "mse" by tensor: factor of the gradient, 1 where it is not given.
        weighted: "output" takes its weights as an input instead of ones.
        prefix: of the names of what is added.

    Raises:
        GradientError: a tensor is not there.
    """
    assert kind in KINDS, kind
    builder = GradientBuilder(graph, prefix)
    heads = _Heads(builder, [])
    seeds: dict[str, Value] = {}
    values: list[Value] = []
    for name in tensors:
        if name not in graph:
            raise GradientError(f"there is no tensor '{name}'", where=name, hint="name a tensor of the model")
        t = graph.value(name)
        scale = (scales or {}).get(name, 1.0)
        if kind in ON_LOGITS:
            seed, value = heads.on_logits(kind, t)
        elif kind == "output":
            seed, value = heads.functional(t, weighted=weighted)
        else:
            seed, value = heads.on_values(kind, t, scale)
        seeds[name] = builder.with_shape(seed, t)
        values += [] if value is None else [value]
    total = values[0] if values else None
    for value in values[1:]:
        assert total is not None
        total = builder.add(total, value)
    return Loss(kind, seeds, tuple(heads.inputs), total)


@dataclass
class _Heads:
    """Heads at single tensors; collects the inputs they add."""

    builder: GradientBuilder
    inputs: list[LossInput]

    def on_logits(self, kind: str, t: Value) -> tuple[Value, Value | None]:
        b = self.builder
        p = b.with_shape(b.op("Softmax", t, axis=-1), t)
        if kind == "softmax":
            root = b.mul(b.with_shape(b.op("Sqrt", p), t), self.input(Fed.SIGNS, t))
            return b.sub(root, b.mul(p, b.sum(root, [-1], keepdims=True))), None
        if kind == "kl":
            reference = self.input(Fed.REFERENCE, t)
            q = b.with_shape(b.op("Softmax", reference, axis=-1), t)
            gap = b.sub(b.op("LogSoftmax", reference, axis=-1), b.op("LogSoftmax", t, axis=-1))
            return b.sub(p, q), self._total(b.mul(q, gap))
        if kind == "sampled":
            label = b.op("ArgMax", b.add(t, self.input(Fed.GUMBEL, t)), axis=-1, keepdims=0)
        else:
            label = self.input(Fed.LABELS, t)
        hot = self._one_hot(label, t)
        loss = b.neg(self._total(b.mul(hot, b.op("LogSoftmax", t, axis=-1))))
        return b.sub(p, hot), loss if kind == "labels" else None

    def on_values(self, kind: str, t: Value, scale: float) -> tuple[Value, Value | None]:
        b = self.builder
        if kind == "probe":
            return b.scale(self.input(Fed.SIGNS, t), scale), None
        if kind == "contrast":
            v = b.with_shape(b.scale(self.input(Fed.SIGNS, t), scale), t)
            return b.sub(v, b.mean(v, [-1])), None
        gap = b.sub(t, self.input(Fed.REFERENCE, t))
        return b.scale(gap, 2 * scale), b.scale(self._total(b.mul(gap, gap)), scale)

    def functional(self, t: Value, *, weighted: bool) -> tuple[Value, Value | None]:
        b = self.builder
        if weighted:
            weights = self.input(Fed.WEIGHTS, t)
            return weights, self._total(b.mul(t, weights))
        return b.op("Expand", b.number(1.0, t), b.shape(t)), self._total(t)

    def input(self, fed: Fed, t: Value) -> Value:
        """A new graph input for tensor `t`."""
        graph = self.builder.graph
        shape, dtype = t.shape, t.dtype or np.dtype(np.float32)
        if fed is Fed.LABELS:
            shape, dtype = None if shape is None else shape[:-1], np.dtype(np.int64)
        name = graph.fresh(f"{self.builder.prefix}/{fed.value}/{t.name}")
        value = graph.add_input(name, dtype, () if shape is None else shape)
        graph.set_type(value, dtype, shape)
        self.inputs.append(LossInput(name, fed, t.name))
        return value

    def _one_hot(self, label: Value, t: Value) -> Value:
        b = self.builder
        ends = b.constant(np.array([0, 1], t.dtype or np.float32))
        last = None if t.shape is None else t.shape[-1]
        depth = (
            b.constant([last])
            if isinstance(last, int)
            else b.op("Gather", b.op("Shape", t), b.constant([-1]), axis=0)
        )
        return b.with_shape(b.op("OneHot", label, depth, ends, axis=-1), t)

    def _total(self, a: Value) -> Value:
        b = self.builder
        total = b.op("ReduceSum", a, keepdims=0)
        b.graph.set_type(total, a.dtype, ())
        return total
