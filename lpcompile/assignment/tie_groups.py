"""Tie groups of activations that may take 4 bits, and who reads them.

All members of a group share scale and zero point, so they change their width together.
"""

from dataclasses import dataclass

from lpcompile.analysis.activation_ranges import ActivationRanges
from lpcompile.analysis.planned_groups import planned_groups
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import STATIC, ActivationPlan

WIDE, NARROW = "uint8", "uint4"
NARROW_BITS = 4


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
    readers: dict[str, list[str]] = {}
    for node in graph.layers():
        layer, x = graph.plan.layers.get(node.name), node.inputs[0]
        if layer is not None and layer.kernel in STATIC and x is not None:
            planned = graph.plan.activations.get(x.name)
            if planned is not None:
                readers.setdefault(planned.tie_group, []).append(node.name)
    found = []
    for group in planned_groups(graph):
        if group.name not in readers or group.plan.format == NARROW:
            continue
        narrow = ranges.narrower(graph, group.members, NARROW)
        if narrow is not None:
            read = tuple(readers[group.name])
            found.append(TieGroup(group.name, group.members, group.sources, read, group.plan, narrow))
    return found
