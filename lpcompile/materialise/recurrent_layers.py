"""Planned recurrent layers in nodes: integers inside one operator, or codes that become floats at load.

DynamicQuantizeLSTM (com.microsoft) is what ONNX Runtime has: inputs and hidden states in 8 bits whose range is measured
at every step, weights int8 with a scale a row. Everywhere else Cast and Mul stand before the float operator, which the
runtime folds at load: the file is a quarter, the speed that of floats.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.value import Value
from lpcompile.materialise.names import stem
from lpcompile.plan import Kernel, RecurrentPlan
from lpcompile.quant.row_table import RowTable

DYNAMIC_LSTM = "DynamicQuantizeLSTM"
OPTIONAL = 8  # inputs of an LSTM; scales and zero points follow them
WEIGHTS = ((1, "W"), (2, "R"))


def write_recurrent_layers(graph: LpGraph, *, portable: bool = False) -> dict[str, int]:
    """Carry out the planned recurrent layers of a graph, in place.

    Args:
        graph: a copy of the float graph with its plan.
        portable: standard operators only.

    Returns:
        The bytes of what holds each layer's weights and scales.
    """
    held: dict[str, tuple[Value, Value]] = {}
    for name, plan in graph.plan.recurrent.items():
        node = graph.node(name)
        assert plan.weights is not None, "the pass that plans a recurrent layer rounds its weights"
        inside = plan.kernel is Kernel.DYNAMIC and not portable
        (_write_integers if inside else _write_floats)(graph, node, plan, held)
    return {n: sum(w.nbytes for w in p.weights or ()) for n, p in graph.plan.recurrent.items()}


def _constants(
    graph: LpGraph, held: dict[str, tuple[Value, Value]], name: str, codes: np.ndarray, scales: np.ndarray
) -> tuple[Value, Value]:
    """Codes and scales; layers that share weights share them."""
    key = RowTable(codes, scales).sha256
    if key not in held:
        held[key] = graph.constant(f"{name}/codes", codes), graph.constant(f"{name}/scales", scales)
    return held[key]


def _write_floats(
    graph: LpGraph, node: Node, plan: RecurrentPlan, held: dict[str, tuple[Value, Value]]
) -> None:
    assert plan.weights is not None
    for (at, role), table in zip(WEIGHTS, plan.weights, strict=True):
        assert table.scales is not None
        name = f"{stem(node.name)}/{role}"
        codes, scales = _constants(graph, held, name, table.codes, table.scales)
        cast = _made(graph, "Cast", [codes], f"{name}/floats", {"to": int(TensorProto.FLOAT)})
        node.set_input(at, _made(graph, "Mul", [cast, scales], f"{name}/values", {}))
    node.metadata["lpcompile.kernel"] = Kernel.WEIGHT_ONLY.value


def _made(graph: LpGraph, op: str, inputs: list[Value], name: str, attrs: dict[str, Any]) -> Value:
    (value,) = graph.add_node(op, inputs, [graph.fresh(name)], name=name, attrs=attrs).outputs
    assert value is not None
    graph.set_type(value, np.dtype(np.float32), inputs[0].shape)
    return value


def _write_integers(
    graph: LpGraph, node: Node, plan: RecurrentPlan, held: dict[str, tuple[Value, Value]]
) -> None:
    assert plan.weights is not None
    inputs = [*node.inputs, *[None] * (OPTIONAL - len(node.inputs))]
    quantisers: list[Value] = []
    for (at, role), table in zip(WEIGHTS, plan.weights, strict=True):
        assert table.scales is not None
        name = f"{stem(node.name)}/{role}"
        turned = np.ascontiguousarray(table.codes.transpose(0, 2, 1))  # (directions, inputs, 4 hidden)
        rows = np.ascontiguousarray(table.scales[..., 0])
        inputs[at], scales = _constants(graph, held, name, turned, rows)
        zeros = graph.constant(f"{name}/zero_points", np.zeros(rows.shape, np.int8))
        quantisers += [scales, zeros]
    outputs = [None if v is None else v.name for v in node.outputs]
    told = {**node.metadata, "lpcompile.kernel": plan.kernel.value}
    types = {v.name: (v.dtype, v.shape) for v in node.outputs if v is not None}
    name, attrs = node.name, {k: v for k, v in dict(node.attrs).items() if k != "layout"}
    graph.remove(node)
    made = graph.add_node(
        DYNAMIC_LSTM,
        [*inputs, *quantisers],
        [n or "" for n in outputs],
        name=name,
        attrs=attrs,
        domain=RUNTIME_DOMAIN,
        metadata=told,
    )
    for value in made.outputs:
        if value is not None:
            graph.set_type(value, *types[value.name])
