"""Softmax and LogSoftmax."""

from collections.abc import Callable, Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.convolution import delta_like
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("Softmax")
def softmax(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dX = Y (G - sum(G Y))."""

    def formula(y: Value, g: Value, axes: list[int]) -> Value:
        return b.mul(y, b.sub(g, b.sum(b.mul(g, y), axes, keepdims=True)))

    return [_over_axes(b, node, grads, formula)]


@rule("LogSoftmax")
def log_softmax(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dX = G - exp(Y) sum(G)."""

    def formula(y: Value, g: Value, axes: list[int]) -> Value:
        return b.sub(g, b.mul(b.op("Exp", y), b.sum(g, axes, keepdims=True)))

    return [_over_axes(b, node, grads, formula)]


def _over_axes(
    b: GradientBuilder,
    node: Node,
    grads: Sequence[Gradient],
    formula: Callable[[Value, Value, list[int]], Value],
) -> Value:
    (g,) = grads
    assert g is not None
    y = delta_like(node)
    return b.with_shape(formula(y, g, [int(node.attrs.get("axis", -1))]), y)
