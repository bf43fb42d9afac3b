"""Tie groups of a plan, and where their rounding errors arise.

An error arises where numbers become codes: at members that are quantised from floats, or that a layer or an operator
computes. Members that only move, select or clamp the codes of others of the group bring no error of their own. A Concat
that takes some of its operands from elsewhere requantises these, so it counts as such a place as a whole: rather too
much than too little.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, data_inputs
from lpcompile.plan import ActivationPlan


@dataclass(frozen=True)
class PlannedGroup:
    """Tensors that share scale and zero point.

    Attributes:
        name: of the tensor that stands for it.
        members: in execution order.
        sources: members at which rounding errors arise.
        plan: of all of them.
    """

    name: str
    members: tuple[str, ...]
    sources: tuple[str, ...]
    plan: ActivationPlan


def planned_groups(graph: LpGraph) -> list[PlannedGroup]:
    """The tie groups of a graph's plan, in execution order."""
    activations = graph.plan.activations
    members: dict[str, list[str]] = {}
    for tensor, plan in activations.items():
        members.setdefault(plan.tie_group, []).append(tensor)
    return [
        PlannedGroup(
            name,
            tuple(tensors),
            tuple(t for t in tensors if not _moved(graph, t, activations)),
            activations[tensors[0]],
        )
        for name, tensors in members.items()
    ]


def _moved(graph: LpGraph, tensor: str, activations: Mapping[str, ActivationPlan]) -> bool:
    """Whether a tensor holds nothing but codes of its own group."""
    node = graph.value(tensor).producer
    if node is None or node.name not in graph.plan.elementwise:
        return False
    if node.op not in DATA_INPUTS and node.op not in CLAMPS:
        return False
    groups = {a.tie_group if (a := activations.get(v.name)) else "" for v in data_inputs(node)}
    return groups == {activations[tensor].tie_group}
