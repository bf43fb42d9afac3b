"""Tensors that can be scaled by channel together: where x_c / s_c on every way out of some layers is undone by s_c.

A group is found by following a tensor both ways, through operators f with f(x / s) = f(x) / s for s > 0, to the
layers and norms that make its channels (1 / s goes into their constants) and to the layers that read them (s goes
into their weights). Each tensor of a group has an array of its own rank that says which factor scales which
element: (1, C, 1, 1) after a convolution, (1, heads, 1, width) inside attention, with 1 on axes that share one.
Factor 0 is 1: of elements that something else reads or makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lpcompile.ir.factor_flow import FactorFlow, Index, Part, Side
from lpcompile.ir.factor_rules import RULES, input_channels, row_axis
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@dataclass(frozen=True, slots=True, eq=False)
class ScalingGroup:
    """Tensors with one set of factors.

    Attributes:
        size: how many factors there are; factor 0 is 1, the others are free.
        parts: every constant that takes factors in.
        tensors: the tensors -> factor of each element, with 1 on axes that share one.
        limits: tensors before a Clip from 0 -> its upper bound: what is scaled must stay below.
    """

    size: int
    parts: tuple[Part, ...]
    tensors: Mapping[Value, Index]
    limits: Mapping[Value, float]

    def of(self, *sides: Side) -> list[Part]:
        """The parts of some sides that have a free factor."""
        return [p for p in self.parts if p.side in sides and p.index.any()]


def scaling_groups(graph: LpGraph) -> tuple[list[ScalingGroup], dict[str, str]]:
    """Every group with at least one layer that reads it; and why the inputs of other layers cannot be scaled.

    Args:
        graph: with shapes.

    Returns:
        Groups in execution order of their first reader, and reasons by name of reader.
    """
    found: list[ScalingGroup] = []
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for node in graph.layers():
        x = node.inputs[0]
        if x is None or x.name in seen:
            continue
        flow = FactorFlow()
        if reason := _start(flow, node, x):
            skipped[node.name] = reason
            continue
        flow.run(RULES)
        seen |= flow.index.keys()
        size, number = flow.numbered()
        group = ScalingGroup(
            size,
            tuple(Part(p.node, p.side, number(p.index)) for p in flow.parts.values()),
            {flow.values[k]: number(i) for k, i in flow.index.items()},
            {flow.values[k]: bound for k, bound in flow.limits.items()},
        )
        if group.of(Side.READS):
            found.append(group)
        held = (p.node.name for p in group.parts if p.side is Side.READS and not p.index.any())
        skipped |= dict.fromkeys(held, flow.reason)
    return found, skipped


def _start(flow: FactorFlow, node: Node, x: Value) -> str:
    """Give every channel that a layer reads a factor of its own; why not, or empty."""
    size = input_channels(node)
    axis = row_axis(node, len(x.shape or ()))
    if size is None or node.attrs.get("transA", 0) or not 0 <= axis < len(x.shape or ()):
        return "its channels are not on the usual axis"
    flow.give(x, flow.fresh([size if i == axis else 1 for i in range(len(x.shape or ()))]))
    return ""
