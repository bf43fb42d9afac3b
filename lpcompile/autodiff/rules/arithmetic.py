"""Arithmetic with broadcasting: Add, Sub, Mul, Div, Neg, Sum, Identity."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def operands(node: Node, count: int) -> list[Value]:
    """The first inputs of a node that must be there."""
    found = [v for v in node.inputs[:count] if v is not None]
    assert len(found) == count, f"{node.op} lacks an input"
    return found


@rule("Add")
def add(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy, summed over broadcast axes."""
    (g,) = grads
    assert g is not None
    return [b.sum_to(g, x) if w else None for x, w in zip(operands(node, 2), wanted, strict=True)]


@rule("Mul")
def mul(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy b."""
    (g,) = grads
    x, y = operands(node, 2)
    assert g is not None
    return [
        b.sum_to(b.with_shape(b.mul(g, other), g), own) if w else None
        for own, other, w in ((x, y, wanted[0]), (y, x, wanted[1]))
    ]
