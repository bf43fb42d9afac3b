"""Operators that join tensors or take them apart: Concat, Split."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node


@rule("Concat")
def concat(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Each operand gets its part."""
    (g,) = grads
    xs, axis = operands(node, len(wanted)), int(node.attrs["axis"])
    assert g is not None
    if len(xs) == 1:
        return [g]
    sizes = b.vector([b.dim(x, axis) for x in xs])
    parts = b.ops("Split", g, sizes, outputs=len(xs), axis=axis)
    return [b.with_shape(part, x) if w else None for part, x, w in zip(parts, xs, wanted, strict=True)]


@rule("Split")
def split(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The parts joined again, zeros where nothing flows back through one.

    Raises:
        GradientError: a part is not named, so that its size cannot be read.
    """
    (x,) = operands(node, 1)
    if len(node.outputs) < len(node.output_names) or None in node.outputs:
        raise GradientError("a Split with an omitted output has no gradient", where=node.name)
    parts = [
        b.zeros_like(y) if g is None else g for y, g in zip(node.outputs, grads, strict=True) if y is not None
    ]
    joined = b.with_shape(b.op("Concat", *parts, axis=int(node.attrs.get("axis", 0))), x)
    return [joined, *[None] * (len(wanted) - 1)]
