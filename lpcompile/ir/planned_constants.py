"""Constants of the float graph as a plan has them: norms that changed, rounded tables, recurrent layers."""

from collections.abc import Mapping

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import NormPlan, RecurrentPlan, TablePlan


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


def put_recurrent(graph: LpGraph, recurrent: Mapping[str, RecurrentPlan]) -> None:
    """Let recurrent layers read the floats that their planned weights stand for, in place."""
    for name, plan in recurrent.items():
        for at, table in enumerate(plan.weights or (), 1):
            graph.node(name).set_input(at, graph.constant(f"{name}/rounded_{at}", table.values))


def with_planned_constants(graph: LpGraph) -> LpGraph:
    """A copy of the float graph whose norms, tables and recurrent layers are those of its plan."""
    copy = graph.copy()
    put_norms(copy, graph.plan.norms)
    put_tables(copy, graph.plan.tables)
    put_recurrent(copy, graph.plan.recurrent)
    return copy
