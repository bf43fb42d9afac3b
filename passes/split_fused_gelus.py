"""Rule of `canonicalize`: activations of `com.microsoft` are spelled as exporters do; the runtime fuses them again."""

import math

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import input_at, output_at
from lpcompile.passes.node_replacement import part, put_instead

GELUS = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")
_QUICK = 1.702  # of QuickGelu, where an attribute says nothing else
_CUBE = 0.044715  # of the tanh form


def split_gelu(graph: LpGraph, node: Node) -> str:
    """Put elementary operators in a node's place; why not, or nothing."""
    x, bias = input_at(node, 0), input_at(node, 1)
    if x is None:
        return "it has no input"
    spelled = _Spelled(graph, node, x)
    if bias is not None:
        x = spelled.op("Add", x, bias)
    if node.op == "QuickGelu":
        alpha = float(node.attrs.get("alpha", _QUICK))
        scaled = x if alpha == 1.0 else spelled.op("Mul", x, spelled.number(alpha))
        put_instead(graph, node, "Mul", [x, spelled.op("Sigmoid", scaled)])
        return ""
    if node.op == "FastGelu":
        cubed = spelled.op("Mul", spelled.op("Pow", x, spelled.number(3.0)), spelled.number(_CUBE))
        inner = spelled.op("Mul", spelled.op("Add", x, cubed), spelled.number(math.sqrt(2 / math.pi)))
        one = spelled.op("Add", spelled.op("Tanh", inner), spelled.number(1.0))
        put_instead(graph, node, "Mul", [spelled.op("Mul", x, spelled.number(0.5)), one])
        return ""
    error = spelled.op("Erf", spelled.op("Div", x, spelled.number(math.sqrt(2))))
    product = spelled.op("Mul", x, spelled.op("Add", error, spelled.number(1.0)))
    put_instead(graph, node, "Mul", [product, spelled.number(0.5)])
    return ""


class _Spelled:
    """Adds operators before a node."""

    def __init__(self, graph: LpGraph, node: Node, x: Value) -> None:
        self._graph, self._node = graph, node
        self._kind = output_at(node).dtype or x.dtype or np.dtype(np.float32)
        self._like = x if output_at(node).shape is None else output_at(node)

    def op(self, op: str, *inputs: Value) -> Value:
        """The output of a new node."""
        return part(self._graph, self._node, op, inputs, kind=self._kind, like=self._like)

    def number(self, number: float) -> Value:
        """A scalar."""
        return self._graph.constant(f"{self._node.name}/number", np.array(number, self._kind))
