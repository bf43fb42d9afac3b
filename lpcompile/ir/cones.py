"""Nodes that together apply one real function to one tensor: `x * Sigmoid(x)`, a Gelu in five nodes.

On 8-bit codes such a cone is one table, rounded once. Clamps of what a layer gives are not part of a cone, as the layer
takes them in for nothing.
"""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, TWO_OPERANDS, data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.unary import F64, WITH_NUMBER, Real, unary_function
from lpcompile.ir.value import Value

MOST_INNER = 12  # a function of two operands evaluates what they share twice


@dataclass(frozen=True, slots=True)
class Cone:
    """A function of one tensor.

    Attributes:
        source: the tensor.
        function: what the last node gives for it.
        inner: names of the nodes between the source and the last node.
    """

    source: Value
    function: Real
    inner: frozenset[str]


def table_cones(
    graph: LpGraph, apart: Set[str] = frozenset(), held: Set[str] = frozenset()
) -> dict[str, Cone]:
    """Every cone of at least two nodes, or of one that reads its tensor twice, by the name of its last.

    Args:
        graph: float graph.
        apart: names of nodes that belong to none.
        held: tensors that no cone reaches beyond, as their codes are there anyway.
    """
    found: dict[str, Cone] = {}
    by_tensor: dict[str, Cone] = {}
    for node in graph.nodes():
        cone = None if node.name in apart else _cone(node, by_tensor)
        y = node.outputs[0] if node.outputs else None
        if cone is None or y is None or len(cone.inner) > MOST_INNER:
            continue
        if y.name not in held:
            by_tensor[y.name] = cone
        if (cone.inner or len(data_inputs(node)) > 1) and node.op not in CLAMPS:
            found[node.name] = cone
    return found


def _cone(node: Node, before: dict[str, Cone]) -> Cone | None:
    inputs = data_inputs(node)
    function = unary_function(node)
    if function is not None and len(inputs) == 1:
        (x,) = inputs
        if x.name in before:
            return _after(function, before[x.name], x)
        return None if node.op in CLAMPS else Cone(x, function, frozenset())
    if node.domain or node.op not in TWO_OPERANDS or len(inputs) != 2:
        return None
    a, b = (before.get(v.name, Cone(v, _same, frozenset())) for v in inputs)
    if a.source != b.source or any(_shape(v) != _shape(a.source) for v in inputs):
        return None
    combine, f, g = WITH_NUMBER[node.op], a.function, b.function
    makers = {v.producer.name for v in inputs if v != a.source and v.producer is not None}
    return Cone(a.source, lambda x: combine(f(x), g(x)), a.inner | b.inner | makers)


def _same(x: F64) -> F64:
    return x


def _after(outer: Real, cone: Cone, value: Value) -> Cone:
    inner = cone.function
    maker = value.producer
    names = cone.inner | ({maker.name} if maker is not None else frozenset())
    return Cone(cone.source, lambda x: outer(np.asarray(inner(x))), names)


def _shape(value: Value) -> tuple[int | str | None, ...] | None:
    return None if value.shape is None else tuple(value.shape)
