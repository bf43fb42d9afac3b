"""Activations; the output is read rather than the input where it tells the derivative, so that the input can be freed.

At a kink the derivative is the one from the saturated side: 0 for Relu at 0 and for Clip at its bounds.
"""

import math

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@elementwise("Relu")
def relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where y > 0."""
    return b.gated(g, b.greater(y, 0.0))


@elementwise("LeakyRelu")
def leaky_relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else alpha."""
    alpha = node.attrs.get("alpha", 0.01)
    return b.mul(g, _step(b, y if alpha >= 0 else x, alpha))


@elementwise("ThresholdedRelu")
def thresholded_relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > alpha."""
    return b.gated(g, b.greater(x, node.attrs.get("alpha", 1.0)))


@elementwise("Elu")
def elu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else alpha exp(x) = y + alpha."""
    alpha = node.attrs.get("alpha", 1.0)
    below = _below(b, x, y, alpha)
    return b.mul(g, b.add(below, _step(b, y if alpha >= 0 else x, alpha)))


@elementwise("Selu")
def selu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """Gamma where x > 0, else gamma alpha exp(x) = y + gamma alpha."""
    alpha = node.attrs.get("alpha", 1.6732632423543772848)
    gamma = node.attrs.get("gamma", 1.0507009873554804934)
    plain = min(alpha, gamma) >= 0
    below = _below(b, x, y, min(alpha, gamma), gamma)
    return b.mul(g, b.add(below, b.scale(_step(b, y if plain else x, alpha), gamma)))


@elementwise("Celu")
def celu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else exp(x / alpha) = y / alpha + 1."""
    alpha = node.attrs.get("alpha", 1.0)
    return b.mul(g, b.add(b.scale(_below(b, x, y, alpha), 1 / alpha), b.number(1.0, y)))


def _step(b: GradientBuilder, a: Value, low: float) -> Value:
    """1 where a > 0, else `low`."""
    if low == 1:
        return b.number(1.0, a)
    above = b.cast(b.greater(a, 0.0), a.dtype or np.dtype(np.float32))
    return b.add(b.scale(above, 1 - low), b.number(low, a))


def _below(b: GradientBuilder, x: Value, y: Value, alpha: float, gamma: float = 1.0) -> Value:
    """Y where x <= 0, else 0, of an activation that is gamma x above 0 and of the sign of -alpha below."""
    if alpha >= 0:
        return b.apply("Min", y, b.number(0.0, y))
    return b.sub(y, b.scale(b.apply("Relu", x), gamma))


@elementwise("Sigmoid")
def sigmoid(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = y (1 - y)."""
    return b.mul(g, b.sub(y, b.mul(y, y)))


@elementwise("HardSigmoid")
def hard_sigmoid(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = alpha where 0 < y < 1."""
    inside = b.op("And", b.greater(y, 0.0), b.op("Less", y, b.number(1.0, y)))
    return b.gated(b.scale(g, node.attrs.get("alpha", 0.2)), inside)


@elementwise("HardSwish")
def hard_swish(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """0 where x <= -3, 1 where x >= 3, x / 3 + 1/2 between."""
    gate = b.apply("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    slope = b.gated(b.scale(x, 1 / 6), b.op("Less", b.apply("Abs", x), b.number(3.0, x)))
    return b.mul(g, b.add(gate, slope))


@elementwise("Tanh")
def tanh(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 - y²."""
    return b.mul(g, b.sub(b.number(1.0, y), b.mul(y, y)))


@elementwise("Softplus")
def softplus(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = sigmoid(x)."""
    return b.mul(g, b.apply("Sigmoid", x))


@elementwise("Softsign")
def softsign(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 1 / (1 + |x|)² = (1 - |y|)²."""
    rest = b.sub(b.number(1.0, y), b.apply("Abs", y))
    return b.mul(g, b.mul(rest, rest))


@elementwise("Mish")
def mish(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = t + x sigmoid(x) (1 - t²) with t = tanh(softplus(x))."""
    t = b.apply("Tanh", b.apply("Softplus", x))
    slope = b.mul(b.mul(x, b.apply("Sigmoid", x)), b.sub(b.number(1.0, x), b.mul(t, t)))
    return b.mul(g, b.add(t, slope))


@elementwise("Swish")
def swish(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = s + alpha y (1 - s) with s = sigmoid(alpha x), y = x s."""
    alpha = node.attrs.get("alpha", 1.0)
    s = b.apply("Sigmoid", b.scale(x, alpha))
    return b.mul(g, b.add(s, b.mul(b.scale(y, alpha), b.sub(b.number(1.0, x), s))))


@elementwise("Erf")
def erf(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = 2 / sqrt(pi) exp(-x²)."""
    return b.mul(g, b.scale(b.apply("Exp", b.neg(b.mul(x, x))), 2 / math.sqrt(math.pi)))


@elementwise("Gelu")
def gelu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = cdf(x) + x pdf(x) of the normal distribution, or the same of its tanh approximation."""
    one = b.number(1.0, x)
    if node.attrs.get("approximate", "none") == "tanh":
        c, cubic = math.sqrt(2 / math.pi), 0.044715
        square = b.mul(x, x)
        t = b.apply("Tanh", b.mul(x, b.add(b.scale(square, c * cubic), b.number(c, x))))
        inner = b.mul(x, b.add(b.scale(square, 3 * c * cubic), b.number(c, x)))
        return b.mul(g, b.scale(b.add(b.add(t, one), b.mul(inner, b.sub(one, b.mul(t, t)))), 0.5))
    cdf = b.scale(b.add(b.apply("Erf", b.scale(x, math.sqrt(0.5))), one), 0.5)
    pdf = b.scale(b.apply("Exp", b.scale(b.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return b.mul(g, b.add(cdf, b.mul(x, pdf)))


@elementwise("Shrink")
def shrink(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where |x| > lambd."""
    return b.gated(g, b.greater(b.apply("Abs", x), node.attrs.get("lambd", 0.5)))
