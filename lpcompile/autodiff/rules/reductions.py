"""Reductions along axes, and CumSum."""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def axes_of(node: Node) -> Value | list[int] | None:
    """The axes of a reduction: constant ones as a list, None for all of them."""
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None or not axes.is_constant:
        return axes
    return [int(a) for a in axes.values]


def keeps_everything(node: Node) -> bool:
    """Whether a reduction is told to reduce nothing where it is given no axes."""
    return bool(node.attrs.get("noop_with_empty_axes", 0))


def unreduced(b: GradientBuilder, node: Node, reduced: Value, x: Value) -> Value:
    """What a reduction yields, or its gradient, with the axes of x back: it broadcasts against x."""
    axes = axes_of(node)
    if node.attrs.get("keepdims", 1) or (isinstance(axes, list) and not axes) or axes is None:
        # Without axes there is one element, or nothing was reduced: either broadcasts as it is.
        return reduced
    return b.apply("Unsqueeze", reduced, axes if isinstance(axes, Value) else b.constant(axes))


def reduce_as(b: GradientBuilder, node: Node, op: str, a: Value) -> Value:
    """A reduction over the axes of a node, which are kept as axes of length 1."""
    axes = axes_of(node)
    given = b.constant(axes) if isinstance(axes, list) else axes
    as_input = op == "ReduceSum" or b.graph.opset >= 18
    attrs: dict[str, object] = {"keepdims": 1}
    if keeps_everything(node):
        attrs["noop_with_empty_axes"] = 1
    if as_input:
        return b.apply(op, a, *([given] if given is not None else []), **attrs)
    attrs.pop("noop_with_empty_axes", None)
    if isinstance(axes, list) and axes:
        attrs["axes"] = axes
    return b.apply(op, a, **attrs)


@elementwise("ReduceSum")
def reduce_sum(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1."""
    return b.expand_like(unreduced(b, node, g, x), x)


@elementwise("ReduceMean")
def reduce_mean(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / n."""
    return b.expand_like(unreduced(b, node, _divided_by_count(b, node, x, y, g), x), x)


def _divided_by_count(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    shape, axes, rank = x.shape, axes_of(node), rank_of(x)
    if isinstance(axes, list) and not axes and not keeps_everything(node):
        axes = None
    if (
        not isinstance(axes, Value)
        and shape is not None
        and rank is not None
        and not (axes is None and keeps_everything(node))
    ):
        reduced = [shape[a] for a in (range(rank) if axes is None else axes)]
        if all(isinstance(d, int) for d in reduced):
            return b.scale(g, 1 / max(1, int(np.prod([d for d in reduced if isinstance(d, int)]))))
    count = b.op("Div", b.op("Size", x), b.op("Size", y))
    return b.div(g, b.cast(count, g.dtype or np.dtype(np.float32)))


@elementwise("ReduceMax", "ReduceMin")
def reduce_extremum(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 for the extreme element; equal ones share it equally."""
    chosen = b.cast(b.op("Equal", x, unreduced(b, node, y, x)), g.dtype or np.dtype(np.float32))
    share = b.div(unreduced(b, node, g, x), reduce_as(b, node, "ReduceSum", chosen))
    return b.mul(share, chosen)


@elementwise("ReduceL1")
def reduce_l1(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = sign(x)."""
    return b.mul(unreduced(b, node, g, x), b.apply("Sign", x))


@elementwise("ReduceL2")
def reduce_l2(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = x / y, 0 where y = 0."""
    one_for_zero = b.cast(b.op("Equal", y, b.number(0.0, y)), y.dtype or np.dtype(np.float32))
    return b.mul(unreduced(b, node, b.div(g, b.add(y, one_for_zero)), x), x)


@elementwise("ReduceSumSquare")
def reduce_sum_square(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 2 x."""
    return b.mul(unreduced(b, node, b.scale(g, 2.0), x), x)


@elementwise("ReduceLogSum")
def reduce_log_sum(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / sum(x) = exp(-y)."""
    return b.expand_like(unreduced(b, node, b.mul(g, b.apply("Exp", b.neg(y))), x), x)


@elementwise("ReduceLogSumExp")
def reduce_log_sum_exp(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = exp(x - y)."""
    return b.mul(unreduced(b, node, g, x), b.apply("Exp", b.sub(x, unreduced(b, node, y, x))))


@elementwise("ReduceProd")
def reduce_prod(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The product of the other elements: also where one of them is 0."""
    zero = b.op("Equal", x, b.number(0.0, x))
    zeros = reduce_as(b, node, "ReduceSum", b.cast(zero, x.dtype or np.dtype(np.float32)))
    nonzero = b.where(zero, b.number(1.0, x), x)
    product = reduce_as(b, node, "ReduceProd", nonzero)
    of_zero = b.masked(product, b.op("Equal", zeros, b.number(1.0, x)))
    of_others = b.div(b.masked(product, b.op("Equal", zeros, b.number(0.0, x))), nonzero)
    return b.mul(unreduced(b, node, g, x), b.where(zero, of_zero, of_others))


@rule("CumSum")
def cum_sum(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The cumulative sum from the other end."""
    x, axis = node.inputs[:2]
    (g,) = grads
    assert g is not None
    assert x is not None
    backwards = 1 - node.attrs.get("reverse", 0)
    exclusive = node.attrs.get("exclusive", 0)
    return [b.with_shape(b.op("CumSum", g, axis, exclusive=exclusive, reverse=backwards), x), None]
