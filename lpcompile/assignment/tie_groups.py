"""Tie groups of activations that may take 4 bits: who reads them, and where their rounding errors arise.

All members of a group share scale and zero point, so they change their width together. An error arises where numbers
become codes: at members that are quantised from floats, or that a layer or an operator computes. Members that only
move, select or clamp the codes of others of the group bring no error of their own. A Concat that takes some of its
operands from elsewhere requantises these, so it counts as such a place as a whole: rather too much than too little.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lpcompile.analysis.activation_ranges import ActivationRanges
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, data_inputs
from lpcompile.plan import ActivationPlan, Kernel

WIDE, NARROW = "uint8", "uint4"
NARROW_BITS = 4
STATIC = (Kernel.INTEGER, Kernel.FLOAT_OUT)


@dataclass(frozen=True)
class TieGroup:
    """Tensors that could take fewer bits together.

    Attributes:
        name: of the tensor that stands for it.
        members: in execution order.
        sources: members at which rounding errors arise.
        readers: layers that read a member.
        planned: how it is planned, in 8 bits.
        narrow: how it would be in 4 bits.
    """

    name: str
    members: tuple[str, ...]
    sources: tuple[str, ...]
    readers: tuple[str, ...]
    planned: ActivationPlan
    narrow: ActivationPlan


def narrowable_groups(graph: LpGraph, ranges: ActivationRanges | None) -> list[TieGroup]:
    """The tie groups of a plan that layers read on integers and that may take 4 bits, in execution order.

    Args:
        graph: with its plan.
        ranges: what `quantize-activations` left; None: no activation is planned.
    """
    if ranges is None:
        return []
    members: dict[str, list[str]] = {}
    for tensor, plan in graph.plan.activations.items():
        members.setdefault(plan.tie_group, []).append(tensor)
    readers: dict[str, list[str]] = {}
    for node in graph.layers():
        layer, x = graph.plan.layers.get(node.name), node.inputs[0]
        if layer is not None and layer.kernel in STATIC and x is not None:
            read = graph.plan.activations.get(x.name)
            if read is not None:
                readers.setdefault(read.tie_group, []).append(node.name)
    found = []
    for name, tensors in members.items():
        planned = graph.plan.activations[tensors[0]]
        if name not in readers or planned.format == NARROW:
            continue
        narrow = ranges.narrower(graph, tensors, NARROW)
        if narrow is not None:
            sources = tuple(t for t in tensors if not _moved(graph, t, graph.plan.activations))
            found.append(TieGroup(name, tuple(tensors), sources, tuple(readers[name]), planned, narrow))
    return found


def _moved(graph: LpGraph, tensor: str, activations: Mapping[str, ActivationPlan]) -> bool:
    """Whether a tensor holds nothing but codes of its own group."""
    node = graph.value(tensor).producer
    if node is None or node.name not in graph.plan.elementwise:
        return False
    if node.op not in DATA_INPUTS and node.op not in CLAMPS:
        return False
    groups = {a.tie_group if (a := activations.get(v.name)) else "" for v in data_inputs(node)}
    return groups == {activations[tensor].tie_group}
