"""Arithmetic with broadcasting: Add, Sub, Mul, Div, Mod, Sum, Mean; Neg, Identity, Dropout."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def operands(node: Node, count: int) -> list[Value]:
    """The first inputs of a node that must be there."""
    found = [v for v in node.inputs[:count] if v is not None]
    assert len(found) == count, f"{node.op} lacks an input"
    return found


@rule("Add", "Sum")
def add(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy, summed over broadcast axes."""
    (g,) = grads
    assert g is not None
    return [b.sum_to(g, x) if w else None for x, w in zip(operands(node, len(wanted)), wanted, strict=True)]


@rule("Mean")
def mean(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy / n, for n operands."""
    (g,) = grads
    assert g is not None
    share = b.with_shape(b.scale(g, 1 / len(wanted)), g)
    return [
        b.sum_to(share, x) if w else None for x, w in zip(operands(node, len(wanted)), wanted, strict=True)
    ]


@rule("Sub")
def sub(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy; dL/db = -dL/dy."""
    (g,) = grads
    x, y = operands(node, 2)
    assert g is not None
    # Summed first: of a broadcast operand there is less to negate.
    return [
        b.sum_to(g, x) if wanted[0] else None,
        b.with_shape(b.neg(b.sum_to(g, y)), y) if wanted[1] else None,
    ]


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


@rule("Div")
def div(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/da = dL/dy / b; dL/db = -dL/dy y / b."""
    (g,) = grads
    x, divisor = operands(node, 2)
    (y,) = node.outputs
    assert g is not None
    assert y is not None
    quotient = b.with_shape(b.div(g, divisor), g)
    by_divisor: Value | None = None
    if wanted[1]:
        by_divisor = b.sum_to(b.with_shape(b.mul(quotient, y), g), divisor)
        by_divisor = b.with_shape(b.neg(by_divisor), divisor)
    return [b.sum_to(quotient, x) if wanted[0] else None, by_divisor]


@rule("Mod")
def mod(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """Y = a - k b with a whole k that is constant nearly everywhere: dL/da = dL/dy; dL/db = -dL/dy k."""
    (g,) = grads
    x, divisor = operands(node, 2)
    (y,) = node.outputs
    assert g is not None
    assert y is not None
    by_divisor: Value | None = None
    if wanted[1]:
        minus_k = b.apply("Round", b.div(b.sub(y, x), divisor))
        by_divisor = b.sum_to(b.with_shape(b.mul(g, minus_k), g), divisor)
    return [b.sum_to(g, x) if wanted[0] else None, by_divisor]


@elementwise("Neg")
def neg(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dL/dx = -dL/dy."""
    return b.neg(g)


@rule("Identity")
def identity(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """dL/dx = dL/dy."""
    return list(grads)


@rule("Dropout")
def dropout(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The identity, as in inference.

    Raises:
        GradientError: it drops elements, or may do so.
    """
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and not (training.is_constant and not training.values.any()):
        raise GradientError(
            "Dropout in training mode has no gradient here",
            where=node.name,
            hint="export the model for inference",
        )
    return [grads[0], *[None] * (len(wanted) - 1)]
