"""Changes of element type. Rounding to a narrower float counts as the identity; integers stop the gradient."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.dtypes import NUMPY_OF_ONNX, is_float
from lpcompile.ir.node import Node


@rule("Cast", "CastLike")
def cast(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """dL/dx = dL/dy in the type of x."""
    x, y, g = node.inputs[0], node.outputs[0], grads[0]
    rest: list[Gradient] = [None] * (len(wanted) - 1)
    if x is None or y is None or g is None:
        return [None, *rest]
    target = y.dtype if "to" not in node.attrs else NUMPY_OF_ONNX.get(node.attrs["to"])
    if target is not None and not is_float(target):
        return [None, *rest]
    if x.dtype is None:
        return [b.with_shape(b.op("CastLike", g, x), x), *rest]
    if not is_float(x.dtype):
        return [None, *rest]
    return [g if g.dtype == x.dtype else b.with_shape(b.cast(g, x.dtype), x), *rest]
