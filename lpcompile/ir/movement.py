"""Operators that move, select or clamp numbers: on integers they need no arithmetic, only codes."""

from collections.abc import Mapping

import numpy as np

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

# operator -> indices of the inputs that are data; the rest are shapes, axes, indices
DATA_INPUTS: Mapping[str, slice] = {
    "Concat": slice(0, None),
    **{
        op: slice(0, 1)
        for op in (
            "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice",
            "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
        )
    },
}  # fmt: skip
CLAMPS = ("Relu", "Clip")
BINARY = ("Add", "Mul")
TWO_OPERANDS = (*BINARY, "Div", "Max", "Min", "Pow", "Sub")


def operands(node: Node) -> list[Value]:
    """The inputs of an elementwise or moving node that are numbers to work on, constants among them."""
    if node.op in DATA_INPUTS:
        chosen = node.inputs[DATA_INPUTS[node.op]]
    else:
        chosen = node.inputs[: 2 if node.op in TWO_OPERANDS else 1]
    return [v for v in chosen if v is not None]


def data_inputs(node: Node) -> list[Value]:
    """The operands that hold activations."""
    return [v for v in operands(node) if not v.is_constant]


def bounds(node: Node) -> tuple[float, float] | None:
    """The constant bounds of a Relu or Clip; None where they are not known."""
    if node.op == "Relu":
        return 0.0, float("inf")
    if node.op != "Clip":
        return None
    if "min" in node.attrs or "max" in node.attrs:  # opset 6 to 10
        return float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))
    found = [-float("inf"), float("inf")]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            if not value.is_constant or value.values.size != 1:
                return None
            found[i] = float(value.values.item())
    return found[0], found[1]


def following_clamp(value: Value) -> Node | None:
    """The Relu or Clip that alone reads `value`, if that is all that happens to it."""
    readers = value.consumers
    if len(readers) != 1 or value.is_output or value.used_in_subgraph:
        return None
    node = readers[0]
    if node.op not in CLAMPS or node.domain or node.inputs[0] != value or bounds(node) is None:
        return None
    return node
