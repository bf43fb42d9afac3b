"""The gradient of any operator that only picks elements, found by letting it pick their positions.

It needs no shape before run time; what is cheaper where shapes are known is for the rules.
"""

from lpcompile.autodiff.builder import GradientBuilder, static_shape
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

ADDING_SCATTER_SINCE = 16


def put_back(b: GradientBuilder, node: Node, x: Value, g: Value, *, unique: bool) -> Value:
    """The gradient of input 0 of a node whose output elements are elements of it.

    Args:
        b: what adds the nodes.
        node: it is repeated on the positions of the elements of x.
        x: its first input.
        g: gradient of its first output.
        unique: whether no element is picked twice.

    Raises:
        GradientError: elements may be picked twice, and the opset has no scatter that adds.
    """
    if not unique and b.graph.opset < ADDING_SCATTER_SINCE:
        raise GradientError(
            f"operator {node.op} has a gradient from opset {ADDING_SCATTER_SINCE} on, the model has {b.graph.opset}",
            where=node.name,
            hint="convert the model to a newer opset (--opset)",
        )
    shape = static_shape(x)
    size = b.op("Size", x) if shape is None else b.product(shape)
    count = size if isinstance(size, Value) else b.constant(size)
    numbered = b.op("Range", b.constant(0), count, b.constant(1))
    picked = b.op(node.op, b.op("Reshape", numbered, b.shape(x)), *node.inputs[1:], **dict(node.attrs))
    flat = b.constant([-1])
    zeros = b.op("Expand", b.number(0.0, g), b.op("Reshape", count, flat))
    attrs = {} if unique else {"reduction": "add"}
    scattered = b.op(
        "ScatterElements", zeros, b.op("Reshape", picked, flat), b.op("Reshape", g, flat), axis=0, **attrs
    )
    return b.with_shape(b.op("Reshape", scattered, b.shape(x)), x)
