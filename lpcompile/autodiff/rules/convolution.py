"""Conv, in any number of spatial axes, with strides, padding, dilations and groups."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder, static_shape
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.convolution_input import Kernel, input_gradient
from lpcompile.autodiff.rules.convolution_weight import weight_gradient
from lpcompile.autodiff.rules.windows import Windows, windows_of
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("Conv")
def conv(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """Gives dX by a convolution with flipped weights, dW by matrix products, db by a sum."""
    (delta,) = grads
    assert delta is not None
    x, weight = operands(node, 2)
    kernel, w = convolution_of(node, weight, x, delta_like(node))
    found: list[Gradient] = [None] * len(wanted)
    if len(wanted) > 2 and wanted[2]:
        found[2] = channel_sum(b, delta, w.rank)
    if wanted[1]:
        found[1] = dw = weight_gradient(b, delta, x, kernel.dims, kernel.group, w)
        delta = after(b, delta, dw, like=delta_like(node)) if wanted[0] else delta
    if wanted[0]:
        found[0] = b.with_shape(input_gradient(b, delta, kernel, w, x), x)
    return found


def convolution_of(node: Node, weight: Value, data: Value, positions: Value) -> tuple[Kernel, Windows]:
    """The weights of a Conv-like node and its windows.

    Raises:
        GradientError: the shape of the weights is not known, or the padding depends on an unknown size.
    """
    dims = static_shape(weight)
    if dims is None:
        raise GradientError(
            "the shape of the weights is not known", where=node.name, hint="run shape inference on the model"
        )
    kernel = Kernel(weight, dims, int(node.attrs.get("group", 1)))
    return kernel, windows_of(node, dims[2:], data, positions)


def delta_like(node: Node) -> Value:
    """The first output of a node."""
    out = node.outputs[0]
    assert out is not None
    return out


def channel_sum(b: GradientBuilder, delta: Value, rank: int, *, per_sample: bool = False) -> Value:
    """The delta (N, C, *counts) summed over positions, and over samples unless they are kept."""
    axes = [2 + i for i in range(rank)]
    return b.sum(delta, axes if per_sample else [0, *axes])
