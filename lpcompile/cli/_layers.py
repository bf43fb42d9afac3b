"""Layers with weights as they are found in a file: float, quantised by somebody else, or compiled by us."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, shape_inference

from lpcompile.formats.planned import short_name
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.io import load
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_WEIGHT_INPUT = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger"), 1),
    **dict.fromkeys(("MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FusedConv"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
}
_NO_WEIGHT = {"x", "x_scale", "x_zero_point", "y_scale", "y_zero_point", "bias", "levels", "image_unit"}
_CONV = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "QuantConv"} | {
    "DyadicConv",
    "AccumulateConv",
}
_MOST_INFERRED = 1 << 30  # ONNX's own inference takes no more than 2 GiB
DYNAMIC_LSTM = "DynamicQuantizeLSTM"
RECURRENT = ("LSTM", "GRU", "RNN", DYNAMIC_LSTM)
_FARTHEST = 64  # nodes between a layer and the constants that its weights are computed from
_EXPANDED = ("DequantizeWeights", "DualPrecisionWeights")  # the layer is the operator that reads them


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer as `inspect` shows it; `macs` is of one call with batch 1, None without shapes."""

    name: str
    op: str
    weight_shape: tuple[int, ...]
    format: str
    granularity: str
    macs: int | None
    weight_bytes: int

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {**asdict(self), "weight_shape": list(self.weight_shape)}


def as_written(path: Path) -> LpGraph:
    """A model with our own functions as nodes; loading inlines functions, which is no way to show them.

    Raises:
        ModelError: the file is no model.
    """
    graph = load(path)
    if DOMAIN not in graph.opset_imports:
        return graph
    proto = ModelProto()
    proto.ParseFromString(path.read_bytes())
    if proto.ByteSize() <= _MOST_INFERRED:  # compiled files hold no shapes that follow from the rest
        proto = shape_inference.infer_shapes(proto, data_prop=True)
    ours = {(f.domain, f.name): f for f in proto.functions if f.domain == DOMAIN}
    others = [f for f in proto.functions if f.domain != DOMAIN]
    del proto.functions[:]
    proto.functions.extend(others)
    graph = LpGraph.from_proto(proto, base_dir=path.parent)
    graph.functions.update(ours)
    return graph


def layer_rows(graph: LpGraph) -> Iterator[LayerRow]:
    """Every layer whose weights are constant, in execution order."""
    for node in graph.nodes():
        row = _compiled(graph, node) if node.domain == DOMAIN else _other(node)
        if row is not None:
            yield row


def _compiled(graph: LpGraph, node: Node) -> LayerRow | None:
    function = graph.functions.get((DOMAIN, node.op))
    told = _told(node, "format")
    if function is None or told is None or node.op.startswith(_EXPANDED):
        return None
    weights = [
        value
        for formal, value in zip(function.input, node.inputs, strict=False)
        if value is not None and value.is_constant and formal not in _NO_WEIGHT
    ]
    op = node.op.split("_")[0]
    shape = tuple(int(d) for d in node.attrs.get("weight_shape", ()))
    if not shape and weights:
        shape = _known(max(weights, key=lambda v: v.nbytes))
    return LayerRow(
        node.name,
        op,
        shape,
        short_name(told),
        _granularity(node),
        _macs(node, op, shape),
        sum(v.nbytes for v in weights),
    )


def _recurrent(node: Node) -> LayerRow | None:
    """W, R and their scales, of the shape of W."""
    held: dict[str, Value] = {}
    for at in (1, 2, *((8, 10) if node.op == DYNAMIC_LSTM else ())):
        value = node.inputs[at] if len(node.inputs) > at else None
        leaves = None if value is None else _constant_leaves(value)
        if leaves is None:
            return None
        held |= {v.name: v for v in leaves}
    weight = node.inputs[1]
    assert weight is not None
    fmt = str(max(held.values(), key=lambda v: v.nbytes).dtype)
    granularity = "channel" if fmt == "int8" else "-"
    size = sum(v.nbytes for v in held.values())
    return LayerRow(node.name, node.op, _known(weight), fmt, granularity, _recurrent_macs(node), size)


def _recurrent_macs(node: Node) -> int | None:
    """Products of all steps and directions; a symbolic batch is 1."""
    x, *weights = node.inputs[:3]
    steps = None if x is None or not x.shape else x.shape[0]
    batch = None if x is None or not x.shape else x.shape[1]
    if not isinstance(steps, int):
        return None
    return steps * (batch if isinstance(batch, int) else 1) * sum(math.prod(_known(v)) for v in weights if v)


def _other(node: Node) -> LayerRow | None:
    if node.op in RECURRENT:
        return _recurrent(node)
    index = _WEIGHT_INPUT.get(node.op)
    if index is None or len(node.inputs) <= index:
        return None
    weight = node.inputs[index]
    leaves = None if weight is None else _constant_leaves(weight)
    if weight is None or not leaves:
        return None
    largest = max(leaves, key=lambda v: v.nbytes)
    shape = _known(weight) or _known(largest)
    call = weight.producer if weight.producer is not None and weight.producer.domain == DOMAIN else node
    found = _told(call, "format") or str(largest.dtype)
    if node.op == "MatMulNBits":
        found, shape = f"int{node.attrs.get('bits', 4)}", (int(node.attrs["K"]), int(node.attrs["N"]))
    macs, size = _macs(node, node.op, shape), sum(v.nbytes for v in leaves)
    return LayerRow(node.name, node.op, shape, short_name(found), _granularity(call), macs, size)


def _told(node: Node, key: str) -> str | None:
    """What a call says in an attribute, and any other node in its metadata."""
    value = node.attrs.get(key, node.metadata.get(f"lpcompile.{key}"))
    return value.decode() if isinstance(value, bytes) else value


def _granularity(node: Node) -> str:
    if "group_size" in node.attrs:
        return f"group{node.attrs['group_size'][0]}"
    return _told(node, "granularity") or ("channel" if node.domain == DOMAIN else "-")


def _constant_leaves(value: Value) -> list[Value] | None:
    """The constants that a tensor is computed from; None if it depends on an input or on too many nodes."""
    leaves: dict[str, Value] = {}
    waiting, seen = [value], 0
    while waiting:
        v = waiting.pop()
        if v.is_constant:
            leaves[v.name] = v
            continue
        node = v.producer
        seen += 1
        if node is None or seen > _FARTHEST:
            return None
        waiting += [i for i in node.inputs if i is not None]
    return list(leaves.values())


def _known(value: Value) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 0 for d in value.shape or ())


def _macs(node: Node, op: str, weight: tuple[int, ...]) -> int | None:
    """Outputs times products of one output; a symbolic first axis counts as 1."""
    source = node.inputs[0] if op == "ConvTranspose" else node.outputs[0]
    shape = None if source is None else source.shape
    if not shape or len(weight) < 2:
        return None
    dims = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(shape)]
    known = [d for d in dims if isinstance(d, int)]
    if len(known) < len(dims):
        return None
    if op in _CONV:  # each kernel element once an output pixel (transposed: once an input pixel)
        return math.prod(known) * math.prod(weight[1:])
    if len(weight) == 2:  # either way round
        return math.prod(known[:-1]) * math.prod(weight)
    return math.prod(known) * weight[-2]
