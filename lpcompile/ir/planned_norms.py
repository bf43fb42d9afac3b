"""Normalisations as a plan has them: their constants in place of the float model's."""

from collections.abc import Mapping

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import NormPlan


def put_norms(graph: LpGraph, norms: Mapping[str, NormPlan]) -> None:
    """Let nodes read the planned constants, in place; others that share the old ones keep those."""
    for name, plan in norms.items():
        node = graph.node(name)
        for i, array in plan.constants.items():
            node.set_input(i, graph.constant(f"{name}/constant_{i}", array))


def with_norms(graph: LpGraph) -> LpGraph:
    """A copy of the float graph whose norms are those of its plan."""
    copy = graph.copy()
    put_norms(copy, graph.plan.norms)
    return copy
