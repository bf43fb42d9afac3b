"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: rounding passes gradients straight through.

The gradient of codes is that of the real numbers they are rounded from, v = x / s + z. Together the pair gives

    dx^/dx = 1 inside the range, 0 outside;  dx^/ds = round(v) - v inside, q - z outside

which is the rule of learned step sizes without its factor 1/sqrt(n Q_P). [mixed-posit 7, LSQ]
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.convolution import delta_like
from lpcompile.errors import GradientError
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("QuantizeLinear")
def quantize_linear(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dL/dx = G / s inside the range, and dL/ds = -sum(G x / s^2) there."""
    (g,) = grads
    assert g is not None
    x, scale = operands(node, 2)
    step = _along(b, node, scale, x)
    at = b.div(x, step)
    zero = _zero_point(b, node, x)
    at = at if zero is None else b.add(at, zero)
    low, high = _range(node)
    inside = b.op(
        "And", b.op("GreaterOrEqual", at, b.number(low, x)), b.op("LessOrEqual", at, b.number(high, x))
    )
    real = b.with_shape(b.gated(b.div(g, step), inside), x)
    found: list[Gradient] = [None] * len(wanted)
    found[0] = real if wanted[0] else None
    if wanted[1]:
        found[1] = _sum_scale(b, node, b.neg(b.div(b.mul(real, x), step)), scale, x)
    return found


@rule("DequantizeLinear")
def dequantize_linear(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dL/dq = G s, and dL/ds = sum(G (q - z))."""
    (g,) = grads
    assert g is not None
    codes, scale = operands(node, 2)
    found: list[Gradient] = [None] * len(wanted)
    if wanted[0]:
        made = b.mul(g, _along(b, node, scale, codes))
        b.graph.set_type(made, scale.dtype, delta_like(node).shape)
        found[0] = made
    if wanted[1]:
        real = b.cast(codes, np.dtype(scale.dtype or np.float32))
        zero = _zero_point(b, node, codes, like=scale)
        real = real if zero is None else b.sub(real, zero)
        found[1] = _sum_scale(b, node, b.mul(g, real), scale, codes)
    return found


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dL/dx = G / s: nothing is clipped, and the scale counts as a constant."""
    g, (x,) = grads[0], operands(node, 1)
    scale = node.outputs[1]
    if g is None or scale is None:
        return [None]
    return [b.with_shape(b.div(g, scale), x)]


def _axis(node: Node, scale: Value, x: Value) -> int | None:
    """The axis that the scales run over; None for one scale.

    Raises:
        GradientError: scales for blocks, or ranks that are not known.
    """
    rank, own = rank_of(x), rank_of(scale)
    if rank is None or own is None or own > 1:
        raise GradientError(
            f"{node.op} with scales for blocks, or of unknown rank, has no gradient",
            where=node.name,
            hint="use scales for tensors or channels",
        )
    shape = scale.dims if scale.is_constant else scale.shape
    return None if own == 0 or shape == (1,) else int(node.attrs.get("axis", 1)) % rank


def _along(b: GradientBuilder, node: Node, scale: Value, x: Value) -> Value:
    """The scales so that they are broadcast over x."""
    axis, rank = _axis(node, scale, x), rank_of(x)
    if axis is None or rank is None:
        return scale
    shape = [-1] + [1] * (rank - 1 - axis)
    return b.constant(scale.values.reshape(shape)) if scale.is_constant else b.reshape(scale, shape)


def _sum_scale(b: GradientBuilder, node: Node, each: Value, scale: Value, x: Value) -> Value:
    axis, rank = _axis(node, scale, x), rank_of(x)
    axes = [a for a in range(rank or 0) if a != axis]
    return b.with_shape(b.reshape(b.sum(each, axes), b.shape(scale)), scale)


def _zero_point(b: GradientBuilder, node: Node, x: Value, like: Value | None = None) -> Value | None:
    """The zero points as real numbers, broadcast over x; None where they are zero."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return None
    real = np.dtype((like or x).dtype or np.float32)
    if zero.is_constant:
        if not np.any(zero.values.astype(np.float64)):
            return None
        return _along(b, node, b.constant(zero.values.astype(real)), x)
    return _along(b, node, b.cast(zero, real), x)


def _range(node: Node) -> tuple[float, float]:
    """The least and the greatest code."""
    dtype = delta_like(node).dtype
    if dtype is None:
        raise GradientError("the type of the codes is not known", where=node.name, hint="run shape inference")
    limits = ml_dtypes.finfo(dtype) if is_float(dtype) else ml_dtypes.iinfo(dtype)
    return float(limits.min), float(limits.max)
