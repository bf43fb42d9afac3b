"""Normalisations: BatchNormalization, LayerNormalization, InstanceNormalization, GroupNormalization, RMSNormalization.

With xhat = (x - mean) / sqrt(var + eps) over some axes and y = xhat scale + bias, G' = G scale:

    dX = (G' - mean(G') - xhat mean(G' xhat)) / sqrt(var + eps)

where mean and var are those of x itself; without the first mean where nothing is centred. Means run over the same axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.windows import typed
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RMS_NORMS
from lpcompile.ir.value import Value


@rule("BatchNormalization")
def batch_normalization(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """With the given statistics a factor a channel; with training_mode = 1 with those of the batch."""
    g, *running = grads
    rank = _rank(node)
    x, scale, _, mean, var = operands(node, 5)
    axes = [0, *range(2, rank)]
    if int(node.attrs.get("training_mode", 0)):
        if any(r is not None for r in running):
            raise GradientError(
                "running statistics have no gradient", where=node.name, hint="use the first output alone"
            )
        assert g is not None
        norm = _standardised(b, node, x, axes, g, centred=True)
        spread = _channel(b, scale, rank)
        dx = norm.backward(b, b.mul(g, spread)) if wanted[0] else None
        dscale, dbias = _affine(b, g, norm.xhat, axes, wanted[1], wanted[2])
        return [None if dx is None else b.with_shape(dx, x), dscale, dbias, None, None]
    assert g is not None
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    inverse, factor = _channel_factor(b, scale, var, epsilon)
    total = b.sum(g, axes) if wanted[2] or wanted[3] else None
    found: list[Gradient] = [None] * 5
    if wanted[1] or wanted[4]:
        moment = b.sum(b.mul(g, b.sub(x, _channel(b, mean, rank))), axes)
        found[1] = b.mul(moment, inverse) if wanted[1] else None
        if wanted[4]:
            found[4] = b.scale(b.mul(b.mul(moment, factor), b.mul(inverse, inverse)), -0.5)
    if wanted[0]:
        found[0] = b.with_shape(b.mul(g, _channel(b, factor, rank)), x)
    found[2] = total if wanted[2] else None
    found[3] = b.neg(b.mul(total, factor)) if wanted[3] and total is not None else None
    return found


@rule("LayerNormalization")
def layer_normalization(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Over the axes from `axis` on; scale and bias are broadcast to x."""
    return _trailing(b, node, grads, wanted, centred=True)


@rule(*RMS_NORMS)
def rms_normalization(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """As LayerNormalization without centring: x / sqrt(mean(x^2) + eps) scale."""
    return _trailing(b, node, grads, wanted, centred=False)


@rule("InstanceNormalization")
def instance_normalization(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Over the positions of each channel of each sample."""
    (g,) = grads
    assert g is not None
    rank = _rank(node)
    x, scale, _ = operands(node, 3)
    norm = _standardised(b, node, x, list(range(2, rank)), g, centred=True)
    dx = norm.backward(b, b.mul(g, _channel(b, scale, rank))) if wanted[0] else None
    dscale, dbias = _affine(b, g, norm.xhat, [0, *range(2, rank)], wanted[1], wanted[2])
    return [None if dx is None else b.with_shape(dx, x), dscale, dbias]


@rule("GroupNormalization")
def group_normalization(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Over the positions and channels of each group; scale and bias a group (opset 18) or a channel (21)."""
    (g,) = grads
    assert g is not None
    x, scale, _ = operands(node, 3)
    groups = int(node.attrs["num_groups"])
    channels = None if x.shape is None else x.shape[1]
    if not isinstance(channels, int):
        raise GradientError(
            "the number of channels is not known",
            where=node.name,
            hint="give the model's input a fixed shape",
        )
    shape = [0, groups, channels // groups, -1]
    split, delta = b.reshape(x, shape), b.reshape(g, shape)
    a_group = b.graph.opset < 21
    affine = [1, groups, 1, 1] if a_group else [1, groups, channels // groups, 1]
    norm = _standardised(b, node, split, [2, 3], delta, centred=True)
    dx = norm.backward(b, b.mul(delta, b.reshape(scale, affine))) if wanted[0] else None
    dscale, dbias = _affine(b, delta, norm.xhat, [0, 2, 3] if a_group else [0, 3], wanted[1], wanted[2])
    return [
        None if dx is None else b.reshape_like(dx, x),
        None if dscale is None else b.reshape(dscale, [-1]),
        None if dbias is None else b.reshape(dbias, [-1]),
    ]


@dataclass(frozen=True, slots=True)
class Standardised:
    """A tensor with zero mean (where centred) and unit variance over some axes."""

    xhat: Value
    inverse: Value  # 1 / sqrt(var + eps)
    axes: tuple[int, ...]
    count: Value | int  # elements a mean runs over
    centred: bool

    def backward(self, b: GradientBuilder, g: Value) -> Value:
        """The gradient of x from that of xhat."""
        along = b.mul(self.xhat, _mean(b, b.mul(g, self.xhat), self.axes, self.count))
        rest = b.sub(g, _mean(b, g, self.axes, self.count)) if self.centred else g
        return b.mul(b.sub(rest, along), self.inverse)


def _standardised(
    b: GradientBuilder, node: Node, x: Value, axes: Sequence[int], g: Value, *, centred: bool
) -> Standardised:
    count = _count(b, x, axes, g)
    middle = b.sub(x, _mean(b, x, axes, count)) if centred else x
    var = _mean(b, b.mul(middle, middle), axes, count)
    deviation = b.op("Sqrt", b.add(var, b.number(float(node.attrs.get("epsilon", 1e-5)), x)))
    inverse = typed(b, b.op("Reciprocal", deviation), x)
    return Standardised(b.mul(middle, inverse), inverse, tuple(axes), count, centred)


def _trailing(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool], *, centred: bool
) -> list[Gradient]:
    g, *statistics = grads
    if g is None or any(s is not None for s in statistics):
        raise GradientError(
            "statistics that are outputs have no gradient", where=node.name, hint="use the first output alone"
        )
    x, scale = operands(node, 2)
    rank = _rank(node)
    axes = list(range(int(node.attrs.get("axis", -1)) % rank, rank))
    norm = _standardised(b, node, x, axes, g, centred=centred)
    found: list[Gradient] = [None] * len(wanted)
    if wanted[0]:
        found[0] = b.with_shape(norm.backward(b, b.mul(g, scale)), x)
    if wanted[1]:
        found[1] = b.sum_to(b.with_shape(b.mul(g, norm.xhat), x), scale)
    if len(wanted) > 2 and wanted[2] and node.inputs[2] is not None:
        found[2] = b.sum_to(g, node.inputs[2])
    return found


def _affine(
    b: GradientBuilder, g: Value, xhat: Value, axes: Sequence[int], scale: bool, bias: bool
) -> tuple[Gradient, Gradient]:
    return b.sum(b.mul(g, xhat), axes) if scale else None, b.sum(g, axes) if bias else None


def _channel_factor(b: GradientBuilder, scale: Value, var: Value, epsilon: float) -> tuple[Value, Value]:
    """1 / sqrt(var + eps) and scale times it, a channel each."""
    if scale.is_constant and var.is_constant:
        inverse = (1 / np.sqrt(var.values.astype(np.float64) + epsilon)).astype(var.dtype)
        return b.constant(inverse), b.constant((scale.values * inverse).astype(scale.dtype))
    deviation = b.op("Sqrt", b.add(var, b.number(epsilon, var)))
    found = typed(b, b.op("Reciprocal", deviation), scale)
    return found, b.mul(scale, found)


def _channel(b: GradientBuilder, a: Value, rank: int) -> Value:
    """(C,) so that it is broadcast over (N, C, ...)."""
    shape = [-1, *([1] * (rank - 2))]
    return b.constant(a.values.reshape(shape)) if a.is_constant else b.reshape(a, shape)


def _mean(b: GradientBuilder, x: Value, axes: Sequence[int], count: Value | int) -> Value:
    total = b.sum(x, list(axes), keepdims=True)
    return b.scale(total, 1 / count) if isinstance(count, int) else b.div(total, count)


def _count(b: GradientBuilder, x: Value, axes: Sequence[int], g: Value) -> Value | int:
    """Number of elements along some axes; where it is not known, of the tensor at run time."""
    known = None if x.shape is None else [x.shape[a] for a in axes]
    if known is not None and all(isinstance(d, int) for d in known):
        return int(np.prod([int(d or 0) for d in known], dtype=np.int64))
    sizes = b.op("Gather", b.op("Shape", g), b.constant(list(axes)), axis=0)
    return b.cast(b.op("ReduceProd", sizes, keepdims=0), np.dtype(x.dtype or np.float32))


def _rank(node: Node) -> int:
    x = node.inputs[0]
    rank = None if x is None else rank_of(x)
    if rank is None:
        raise GradientError(
            "the rank of the input is not known", where=node.name, hint="run shape inference on the model"
        )
    return rank
