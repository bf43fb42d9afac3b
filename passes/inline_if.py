"""Put the branch that runs in the place of an If whose condition is a constant."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from lpcompile.ir.bodies import Body, BodyNode, renamed
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_LITERALS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


def inline_if(graph: LpGraph, node: Node) -> str | None:
    """Inline an If with a constant condition. Why not, or None when done."""
    condition = node.inputs[0]
    if condition is None or not condition.is_constant:
        return "its condition is not constant"
    chosen = "then_branch" if bool(condition.values.reshape(-1)[0]) else "else_branch"
    body = next(b for b in node.subgraphs if b.attribute == chosen)
    if (obstacle := _obstacle(body)) is not None:
        return obstacle
    local: dict[str, Value | None] = {"": None}

    def find(name: str) -> Value | None:
        return local[name] if name in local else graph.value(name)

    for tensor in body.proto.initializer:
        local[tensor.name] = graph.constant(tensor.name, numpy_helper.to_array(tensor))
    for inner in map(BodyNode, body.proto.node):
        if inner.op == "Constant" and not inner.domain:
            local[inner.output_names[0]] = graph.constant(inner.output_names[0], _literal(inner))
            continue
        names = [graph.fresh(name) if name else "" for name in inner.output_names]
        new = graph.add_node(
            inner.op,
            [find(name) for name in inner.input_names],
            names,
            name=inner.name or None,
            attrs=_attributes(inner, {n: v.name for n, v in local.items() if v is not None}),
            domain=inner.domain,
            before=node,
        )
        local.update(
            (name, value) for name, value in zip(inner.output_names, new.outputs, strict=False) if name
        )
    for old, given in zip(node.outputs, body.proto.output, strict=False):
        result = find(given.name)
        if old is not None and result is not None:
            graph.replace_uses(old, result)
    graph.remove(node)
    return None


def _obstacle(body: Body) -> str | None:
    if body.proto.sparse_initializer:
        return "its branch has sparse constants"
    if any(t.data_location == TensorProto.EXTERNAL for t in body.proto.initializer):
        return "its branch keeps constants in another file"
    for inner in map(BodyNode, body.proto.node):
        if inner.op == "Constant" and not inner.domain and _literal_name(inner) is None:
            return "its branch has a constant that is no tensor of numbers"
    return None


def _attributes(inner: BodyNode, names: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of a node of the branch; its own bodies read what the branch defines under its new names."""

    def moved(value: Any) -> Any:
        if isinstance(value, Body):
            return Body(value.attribute, renamed(value.proto, names))
        return [moved(v) for v in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in inner.attrs.items()}


def _literal_name(inner: BodyNode) -> str | None:
    return next((name for name in inner.attrs if name == "value" or name in _LITERALS), None)


def _literal(inner: BodyNode) -> np.ndarray:
    name = _literal_name(inner) or "value"
    return np.asarray(inner.attrs[name], _LITERALS.get(name))
