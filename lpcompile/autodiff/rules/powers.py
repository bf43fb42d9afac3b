"""Powers, exponentials, logarithms, magnitudes and trigonometric functions."""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("Pow")
def power(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """dL/dx = dL/dy p x^(p - 1), dL/dp = dL/dy y log(x), 0 where x <= 0 (there is none for negative x).

    Of a constant p below 1, dL/dx is 0 where x = 0.
    """
    (g,) = grads
    x, p = operands(node, 2)
    (y,) = node.outputs
    assert g is not None
    assert y is not None
    by_base = b.with_shape(_power_of_base(b, g, x, p, y), g) if wanted[0] else None
    by_exponent = None
    if wanted[1]:
        positive = b.greater(x, 0.0)
        logarithm = b.apply("Log", b.where(positive, x, b.number(1.0, x)))
        by_exponent = b.with_shape(b.mul(g, b.mul(y, logarithm)), g)
    return [
        None if by_base is None else b.sum_to(by_base, x),
        None if by_exponent is None else b.sum_to(by_exponent, p),
    ]


def _power_of_base(b: GradientBuilder, g: Value, x: Value, p: Value, y: Value) -> Value:
    if p.is_constant and p.values.size == 1:
        exponent = float(p.values.reshape(()))
        if exponent == 0:
            return b.zeros_like(g)
        if exponent == 1:
            return g
        if exponent == 2:
            return b.mul(g, b.scale(x, 2.0))
        if exponent == 0.5:
            return _of_root(b, y, g)
        zero = b.op("Equal", x, b.number(0.0, x)) if exponent < 1 else None
        base = x if zero is None else b.where(zero, b.number(1.0, x), x)
        found = b.mul(g, b.scale(b.apply("Pow", base, b.number(exponent - 1, x)), exponent))
        return found if zero is None else b.where(zero, b.zeros_like(g), found)
    if p.dtype != x.dtype:
        p = b.cast(p, g.dtype) if g.dtype is not None else b.apply("CastLike", p, g)
    # x^0 is constant, at x = 0 too, where x^-1 is infinite: any other power of x will do, since p is 0.
    one_for_zero = b.cast(b.op("Equal", p, b.number(0.0, g)), g.dtype or np.dtype(np.float32))
    lowered = b.apply("Pow", x, b.add(b.sub(p, b.number(1.0, g)), one_for_zero))
    return b.mul(g, b.mul(p, lowered))


@elementwise("Sqrt")
def sqrt(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / (2 y), 0 where y = 0: magnitudes of silence would make all before them NaN."""
    return _of_root(b, y, g)


def _of_root(b: GradientBuilder, y: Value, g: Value) -> Value:
    zero = b.op("Equal", y, b.number(0.0, y))
    found = b.div(b.scale(g, 0.5), b.where(zero, b.number(1.0, y), y))
    return b.where(zero, b.zeros_like(g), found)


@elementwise("Reciprocal")
def reciprocal(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = -y²."""
    return b.neg(b.mul(g, b.mul(y, y)))


@elementwise("Exp")
def exp(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = y."""
    return b.mul(g, y)


@elementwise("Log")
def log(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / x."""
    return b.div(g, x)


@elementwise("Abs")
def absolute(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = sign(x), 0 at 0."""
    return b.mul(g, b.apply("Sign", x))


@elementwise("Sin")
def sin(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = cos(x)."""
    return b.mul(g, b.apply("Cos", x))


@elementwise("Cos")
def cos(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = -sin(x)."""
    return b.neg(b.mul(g, b.apply("Sin", x)))


@elementwise("Tan")
def tan(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 + y²."""
    return b.mul(g, b.add(b.mul(y, y), b.number(1.0, y)))


@elementwise("Asin", "Acos")
def arc_sine(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / sqrt(1 - x²); negative for Acos."""
    found = b.div(g, b.apply("Sqrt", b.sub(b.number(1.0, x), b.mul(x, x))))
    return found if node.op == "Asin" else b.neg(found)


@elementwise("Atan")
def atan(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / (1 + x²)."""
    return b.div(g, b.add(b.mul(x, x), b.number(1.0, x)))


@elementwise("Sinh", "Cosh")
def hyperbolic(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = cosh(x) for Sinh, sinh(x) for Cosh."""
    return b.mul(g, b.apply("Cosh" if node.op == "Sinh" else "Sinh", x))


@elementwise("Asinh", "Acosh")
def area_hyperbolic(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / sqrt(x² + 1) for Asinh, 1 / sqrt(x² - 1) for Acosh."""
    return b.div(g, b.apply("Sqrt", b.add(b.mul(x, x), b.number(1.0 if node.op == "Asinh" else -1.0, x))))


@elementwise("Atanh")
def atanh(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / (1 - x²)."""
    return b.div(g, b.sub(b.number(1.0, x), b.mul(x, x)))
