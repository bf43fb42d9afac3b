"""Planned tables in nodes: rows of codes are looked up, then scaled, so that no float table is ever held.

Gather, Cast, and a product with the scales that the same indices look up; of half precision Gather and Cast. A Cast
follows where the float table was in half precision.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape
from lpcompile.ir.value import Value
from lpcompile.materialise.names import stem
from lpcompile.plan import TablePlan
from lpcompile.quant.row_table import RowTable

FLOAT = np.dtype(np.float32)
WIDE = {"to": int(TensorProto.FLOAT)}


def write_row_tables(graph: LpGraph) -> None:
    """Carry out the planned tables of a graph, in place; Gathers that share a table share its codes."""
    constants: dict[str, tuple[Value, Value | None]] = {}
    for name, plan in graph.plan.tables.items():
        assert plan.table is not None, "the pass that plans a table rounds it"
        if plan.codes_sha256 not in constants:
            constants[plan.codes_sha256] = _stored(graph, name, plan.table)
        _write(graph, graph.node(name), plan, *constants[plan.codes_sha256])


def _stored(graph: LpGraph, name: str, table: RowTable) -> tuple[Value, Value | None]:
    codes = graph.constant(f"{stem(name)}/codes", table.codes)
    return codes, None if table.scales is None else graph.constant(f"{stem(name)}/row_scales", table.scales)


def _write(graph: LpGraph, node: Node, plan: TablePlan, codes: Value, scales: Value | None) -> None:
    rows, indices = node.outputs[0], node.inputs[1]
    assert rows is not None
    half = rows.dtype == np.float16
    name, shape, along = node.name, rows.shape, {"axis": node.attrs.get("axis", 0)}
    metadata = {**node.metadata, "lpcompile.format": plan.format}
    graph.remove(node)

    def made(op: str, role: str, *inputs: Value | None, **attrs: Any) -> Node:
        return graph.add_node(
            op, inputs, [graph.fresh(f"{stem(rows.name)}/{role}")], name=f"{name}/{role}", attrs=attrs
        )

    found = _typed(graph, made("Gather", "codes", codes, indices, **along), codes.dtype, shape)
    if scales is None:
        last_op, inputs, attrs = "Cast", [found], WIDE
    else:
        floats = _typed(graph, made("Cast", "floats", found, **WIDE), FLOAT, shape)
        steps = _typed(graph, made("Gather", "scales", scales, indices, **along), FLOAT, None)
        last_op, inputs, attrs = "Mul", [floats, steps], {}
    if half:
        inputs = [_typed(graph, made(last_op, "values", *inputs, **attrs), FLOAT, shape)]
        last_op, attrs = "Cast", {"to": int(TensorProto.FLOAT16)}
    last = graph.add_node(last_op, inputs, [rows.name], name=name, attrs=attrs, metadata=metadata)
    _typed(graph, last, np.dtype(np.float16) if half else FLOAT, shape)


def _typed(graph: LpGraph, node: Node, dtype: np.dtype[Any] | None, shape: Shape | None) -> Value:
    value = node.outputs[0]
    assert value is not None
    graph.set_type(value, dtype, shape)
    return value
