"""Operators that choose one of several numbers: Where, Clip, PRelu, Min, Max."""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("Where")
def where(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The gradient goes to the operand that was chosen."""
    (g,) = grads
    condition, x, y = operands(node, 3)
    assert g is not None
    return [
        None,
        b.sum_to(b.with_shape(b.gated(g, condition), g), x) if wanted[1] else None,
        b.sum_to(b.with_shape(b.gated(g, b.op("Not", condition)), g), y) if wanted[2] else None,
    ]


@rule("Clip")
def clip(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """1 strictly between the bounds, told from the output; a bound gets the sum over what it replaced."""
    (g,) = grads
    (y,) = node.outputs
    x, low, high = (*node.inputs, None, None)[:3]
    assert g is not None
    assert x is not None
    assert y is not None
    if low is None and "min" in node.attrs:
        low = b.number(node.attrs["min"], x)
    if high is None and "max" in node.attrs:
        high = b.number(node.attrs["max"], x)
    tests = [b.op("Greater", y, low)] if low is not None else []
    tests += [b.op("Less", y, high)] if high is not None else []
    found: list[Gradient] = [None] * len(wanted)
    if wanted[0]:
        inside = b.op("And", *tests) if len(tests) == 2 else tests[0] if tests else None
        found[0] = g if inside is None else b.with_shape(b.gated(g, inside), x)
    for i, bound, test in ((1, low, "Less"), (2, high, "Greater")):
        if i < len(wanted) and wanted[i] and bound is not None:
            replaced = b.gated(g, b.op(test, x, bound))
            found[i] = b.with_shape(b.apply("ReduceSum", replaced, keepdims=0), bound)
    return found


@rule("PRelu")
def prelu(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """dL/dx = dL/dy where x > 0, else dL/dy slope; dL/dslope = dL/dy min(x, 0)."""
    (g,) = grads
    x, slope = operands(node, 2)
    assert g is not None
    by_data: Value | None = None
    if wanted[0]:
        above = b.gated(b.sub(b.number(1.0, g), slope), b.greater(x, 0.0))
        by_data = b.with_shape(b.mul(g, b.add(above, slope)), x)
    by_slope: Value | None = None
    if wanted[1]:
        below = b.mul(g, b.apply("Min", x, b.number(0.0, x)))
        by_slope = b.sum_to(b.with_shape(below, g), slope)
    return [by_data, by_slope]


@rule("Min", "Max")
def extremum(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The gradient goes to the extreme operand; equal ones share it equally."""
    (g,) = grads
    (y,) = node.outputs
    xs = operands(node, len(wanted))
    assert g is not None
    assert y is not None
    if len(xs) == 1:
        return [g]
    if len(xs) == 2:
        return _of_two(b, node, xs, g, wanted)
    chosen = [b.cast(b.op("Equal", x, y), g.dtype or np.dtype(np.float32)) for x in xs]
    share = b.div(g, b.apply("Sum", *chosen))
    return [
        b.sum_to(b.with_shape(b.mul(share, c), g), x) if w else None
        for c, x, w in zip(chosen, xs, wanted, strict=True)
    ]


def _of_two(
    b: GradientBuilder, node: Node, xs: Sequence[Value], g: Value, wanted: Sequence[bool]
) -> list[Gradient]:
    """(1 + sign(x - other)) / 2 of the gradient for Max."""
    half = b.with_shape(b.scale(g, 0.5), g)
    signed = b.mul(half, b.apply("Sign", b.sub(xs[0], xs[1])))
    first, second = b.add(half, signed), b.sub(half, signed)
    if node.op == "Min":
        first, second = second, first
    return [
        b.sum_to(b.with_shape(part, g), x) if w else None
        for part, x, w in zip((first, second), xs, wanted, strict=True)
    ]
