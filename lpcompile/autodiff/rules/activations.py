"""Activations; the output is read rather than the input where it tells the derivative, so that the input can be freed.

At a kink the derivative is the one from the saturated side: 0 for Relu at 0 and for Clip at its bounds.
"""

import math

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@elementwise("Relu")
def relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where y > 0."""
    return b.masked(g, b.greater(y, 0.0))


@elementwise("LeakyRelu")
def leaky_relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else alpha."""
    alpha = node.attrs.get("alpha", 0.01)
    return b.where(b.greater(_of_same_sign(x, y, alpha), 0.0), g, b.scale(g, alpha))


@elementwise("ThresholdedRelu")
def thresholded_relu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > alpha."""
    return b.masked(g, b.greater(x, node.attrs.get("alpha", 1.0)))


@elementwise("Elu")
def elu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else alpha exp(x) = y + alpha."""
    alpha = node.attrs.get("alpha", 1.0)
    below = b.mul(g, b.add(y, b.number(alpha, y)))
    return b.where(b.greater(_of_same_sign(x, y, alpha), 0.0), g, below)


@elementwise("Selu")
def selu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = gamma where x > 0, else gamma alpha exp(x) = y + gamma alpha."""
    alpha = node.attrs.get("alpha", 1.6732632423543772848)
    gamma = node.attrs.get("gamma", 1.0507009873554804934)
    positive = b.greater(_of_same_sign(x, y, min(alpha, gamma)), 0.0)
    return b.mul(g, b.where(positive, b.number(gamma, y), b.add(y, b.number(gamma * alpha, y))))


@elementwise("Celu")
def celu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """1 where x > 0, else exp(x / alpha) = y / alpha + 1."""
    alpha = node.attrs.get("alpha", 1.0)
    below = b.mul(g, b.add(b.scale(y, 1 / alpha), b.number(1.0, y)))
    return b.where(b.greater(_of_same_sign(x, y, alpha), 0.0), g, below)


@elementwise("Sigmoid")
def sigmoid(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = y (1 - y)."""
    return b.mul(g, b.sub(y, b.mul(y, y)))


@elementwise("HardSigmoid")
def hard_sigmoid(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dy/dx = alpha where 0 < y < 1."""
    inside = b.op("And", b.greater(y, 0.0), b.op("Less", y, b.number(1.0, y)))
    return b.masked(b.scale(g, node.attrs.get("alpha", 0.2)), inside)


@elementwise("HardSwish")
def hard_swish(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """0 where x <= -3, 1 where x >= 3, x / 3 + 1/2 between."""
    between = b.mul(g, b.add(b.scale(x, 1 / 3), b.number(0.5, x)))
    below = b.masked(between, b.greater(x, -3.0))
    return b.where(b.op("Less", x, b.number(3.0, x)), below, g)


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
    return b.masked(g, b.greater(b.apply("Abs", x), node.attrs.get("lambd", 0.5)))


def _of_same_sign(x: Value, y: Value, slope: float) -> Value:
    """The output where it is positive if and only if the input is, which a positive slope below 0 sees to."""
    return y if slope >= 0 else x
