"""Constants of the float graph as a plan has them: those of norms that changed, and rounded tables."""

from collections.abc import Mapping

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import NormPlan, TablePlan


def put_norms(graph: LpGraph, norms: Mapping[str, NormPlan]) -> None:
    """Let nodes read the planned constants, in place; others that share the old ones keep those."""
    for name, plan in norms.items():
        node = graph.node(name)
        for i, array in plan.constants.items():
            node.set_input(i, graph.constant(f"{name}/constant_{i}", array))


def put_tables(graph: LpGraph, tables: Mapping[str, TablePlan]) -> None:
    """Let Gathers look up the floats that the planned tables stand for, in place."""
    for name, plan in tables.items():
        node = graph.node(name)
        if plan.table is not None and (table := node.inputs[0]) is not None:
            values = plan.table.values.astype(table.dtype)
            node.set_input(0, graph.constant(f"{name}/rounded_table", values))


def with_planned_constants(graph: LpGraph) -> LpGraph:
    """A copy of the float graph whose norms and tables are those of its plan."""
    copy = graph.copy()
    put_norms(copy, graph.plan.norms)
    put_tables(copy, graph.plan.tables)
    return copy
