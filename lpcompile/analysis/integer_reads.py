"""Which nodes read the codes of a planned tensor, and which the floats that these were made of.

A tensor that a float node makes is quantised for its readers on integers alone: a residual Add beside them that stays
float reads floats. What an integer node makes is codes for everybody.
"""

from collections.abc import Set
from functools import partial

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.plan import STATIC, Kernel


def with_separate_reads(graph: LpGraph) -> tuple[LpGraph, dict[str, str]]:
    """A copy in which those that read codes read a tensor of their own where others read floats.

    Args:
        graph: float graph and plan.

    Returns:
        The copy, and planned tensor -> the tensor that is rounded, where that is another.
    """
    copy, found = graph.copy(), {}
    for name in graph.plan.activations:
        tensor = copy.value(name)
        if not _made_of_floats(graph, tensor):
            continue
        integer = {n.name for n in tensor.consumers if _reads_codes(graph, n, tensor)}
        rest = {n.name for n in tensor.consumers} - integer
        if integer and (rest or tensor.is_output or tensor.used_in_subgraph):
            node = copy.add_node("Identity", [tensor], name=copy.fresh(f"{name}/read"))
            own = node.outputs[0]
            assert own is not None
            copy.set_type(own, tensor.dtype, tensor.shape)
            copy.replace_uses(tensor, own, only=partial(_among, integer))
            found[name] = own.name
    return copy, found


def _among(names: Set[str], node: Node) -> bool:
    return node.name in names


def _made_of_floats(graph: LpGraph, tensor: Value) -> bool:
    node = tensor.producer
    if node is None:
        return True
    layer = graph.plan.layers.get(node.name)
    return node.name not in graph.plan.elementwise and (layer is None or layer.kernel is not Kernel.INTEGER)


def _reads_codes(graph: LpGraph, node: Node, tensor: Value) -> bool:
    layer = graph.plan.layers.get(node.name)
    if layer is None:
        return node.name in graph.plan.elementwise
    first = node.inputs[0]
    return layer.kernel in (*STATIC, Kernel.FLOAT8) and first is not None and first.name == tensor.name
