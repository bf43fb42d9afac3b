"""Rules of operators whose output elements each depend on one element of their first input."""

from collections.abc import Callable, Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

# (builder, node, x, y, dL/dy) -> dL/dx
ElementwiseRule = Callable[[GradientBuilder, Node, Value, Value, Value], Value]


def elementwise(*ops: str) -> Callable[[ElementwiseRule], ElementwiseRule]:
    """Decorator: the rule of operators y = f(x), whose other inputs, if any, have no gradient."""

    def register(function: ElementwiseRule) -> ElementwiseRule:
        def whole(
            b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
        ) -> list[Gradient]:
            x, y, g = node.inputs[0], node.outputs[0], grads[0]
            rest: list[Gradient] = [None] * (len(wanted) - 1)
            if x is None or y is None or g is None or not wanted[0]:
                return [None, *rest]
            return [b.with_shape(function(b, node, x, y, g), x), *rest]

        rule(*ops)(whole)
        return function

    return register
