"""Spell a float16 graph in float32, which is what integer layers are made of; inputs and outputs keep their type.

ONNX Runtime's CPU kernels compute in float32 anyway, with a Cast on either side of each. Tables that are only looked
up stay float16, so that the file does not grow by them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto

from lpcompile.ir.definitions import OF_RUNTIME
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.value import Value
from lpcompile.passes.split_fused import split_fused
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT = ("GRU", "LSTM", "RNN")  # their weights, and those that read what came before
# Of the runtime's own domain, those that take float32 as well and may be left once others are spelled in their parts.
SINGLES = frozenset(
    {*OF_RUNTIME, "Attention", "EmbedLayerNormalization", "GroupQueryAttention", "RotaryEmbedding",
     "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
)  # fmt: skip
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


@dataclass(frozen=True, slots=True)
class WidenFloat16(Pass):
    """All of a float16 graph, or nothing of it.

    Attributes:
        copies: whether a table whose rows are looked up is stored once more, in float32, where layers read it as well;
            else these read it through a Cast.
    """

    name: ClassVar[str] = "widen-float16"
    summary: ClassVar[str] = "spells float16 graphs in float32, so that their layers can run on integers"
    exact: ClassVar[bool] = False
    rewrites: ClassVar[bool] = True

    copies: bool = True

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Widen constants, inputs and what lies between, then narrow the outputs."""
        report = PassReport(self.name)
        if any(n.domain == RUNTIME_DOMAIN and _is_half(n) for n in graph.nodes()):
            split_fused(graph, report)
        nodes = [n for n in graph.nodes() if _is_half(n) and not _only_converts(n)]
        for node in nodes:
            if reason := _obstacle(node):
                report.skip(node, reason)
                return report
        if not nodes:
            return report
        if (reason := _cost(graph, copies=self.copies)) != "":
            report.skip(nodes[0], reason)
            return report
        outputs = [v for v in graph.outputs if v.dtype == HALF]
        for value in [v for v in graph.inputs if v.dtype == HALF]:
            _read_through_cast(graph, value)
        narrowed = [_narrow(graph, value) for value in outputs]
        widened: dict[tuple[str, bool], Value] = {}
        for node in graph.nodes():
            if node not in narrowed:
                _widen(graph, node, widened, copies=self.copies)
        for node in nodes:
            report.change(node, "computes in float32")
        return report


def _is_half(node: Node) -> bool:
    return any(v is not None and v.dtype == HALF for v in (*node.inputs, *node.outputs))


def _only_converts(node: Node) -> bool:
    """The Cast of a graph input or output, of a table, or of its rows: what this pass leaves."""
    source, result = node.inputs[0], node.outputs[0]
    if node.op == "Gather":
        return _is_table(node) and result is not None and all(c.op == "Cast" for c in result.consumers)
    if node.op != "Cast" or source is None or result is None:
        return False
    rows = source.producer is not None and source.producer.op == "Gather" and _is_table(source.producer)
    table = source.is_constant and _is_looked_up(source)
    return (
        (source.is_input or table or rows)
        if source.dtype == HALF
        else result.is_output and source.dtype == SINGLE
    )


def _is_table(node: Node) -> bool:
    table = node.inputs[0]
    return node.op == "Gather" and table is not None and table.is_constant and table.dtype == HALF


def _is_cast(value: Value, reader: Node, *, copies: bool) -> bool:
    """Whether a node reads a constant through a Cast: a table that stays as it is, for its rows are looked up."""
    return _is_looked_up(value) and not (copies and reader.op in LAYERS)


def _is_looked_up(value: Value) -> bool:
    return any(_is_table(n) and n.inputs[0] == value for n in value.consumers)


def _obstacle(node: Node) -> str:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == HALF]
    if node.domain and not (node.domain == RUNTIME_DOMAIN and node.op in SINGLES):
        return f"domain {node.domain} may need float16"
    if node.subgraphs or any(v.used_in_subgraph for v in values):
        return "a control-flow body works on float16"
    if any(v.is_output and v.producer is None for v in values):
        return "an output is not computed"
    return ""


def _cost(graph: LpGraph, *, copies: bool) -> str:
    """What other nodes than layers hold doubles; it may be no more than what the layers hold."""
    layers = {
        value.name
        for node in graph.nodes(*LAYERS, *RECURRENT)
        for value in node.inputs[1 : 3 if node.op in RECURRENT else 2]
        if value is not None
    }
    held = {
        v.name: v
        for n in graph.nodes()
        if not _is_table(n)
        for v in n.inputs
        if v is not None and v.is_constant and v.dtype == HALF and not _is_cast(v, n, copies=copies)
    }
    gain = sum(v.nbytes for name, v in held.items() if name in layers)
    loss = sum(v.nbytes for name, v in held.items() if name not in layers)
    return "most of its weights belong to no layer and would double" if loss > gain else ""


def _cast(graph: LpGraph, value: Value, to: int) -> Value:
    result = graph.add_node("Cast", [value], attrs={"to": to}).outputs[0]
    assert result is not None
    graph.set_type(result, SINGLE if to == TensorProto.FLOAT else HALF, value.shape)
    return result


def _read_through_cast(graph: LpGraph, value: Value) -> None:
    wide = _cast(graph, value, TensorProto.FLOAT)

    def reads(node: Node) -> bool:
        return node != wide.producer

    graph.replace_uses(value, wide, only=reads)


def _narrow(graph: LpGraph, value: Value) -> Node:
    """Fill a graph output through a Cast; everybody else goes on reading what was before."""
    name, producer = value.name, value.producer
    assert producer is not None
    index = producer.output_names.index(name)
    graph.replace_uses(value, _cast(graph, value, TensorProto.FLOAT16))
    inner = producer.outputs[index]
    cast = next(v for v in graph.outputs if v.name == name).producer
    assert inner is not None
    assert cast is not None
    cast.set_input(0, inner)
    for node in [c for v in cast.outputs if v is not None for c in v.consumers]:
        for i, read in enumerate(node.inputs):
            if read is not None and read.producer == cast:
                node.set_input(i, inner)
    return cast


def _widen(graph: LpGraph, node: Node, widened: dict[tuple[str, bool], Value], *, copies: bool) -> None:
    """Widen a node's attributes, constants (each once) and outputs."""
    if _is_table(node):
        rows = node.outputs[0]
        assert rows is not None
        if not all(c.op == "Cast" for c in rows.consumers):
            _read_through_cast(graph, rows)
        return
    if node.op == "Cast" and _only_converts(node):
        return
    for name in TYPE_ATTRIBUTES:
        if node.attrs.get(name) == TensorProto.FLOAT16:
            node.set_attr(name, TensorProto.FLOAT)
    fill = node.attrs.get("value")
    if isinstance(fill, np.ndarray) and fill.dtype == HALF:
        node.set_attr("value", fill.astype(SINGLE))
    for i, value in enumerate(node.inputs):
        if value is not None and value.is_constant and value.dtype == HALF:
            cast = _is_cast(value, node, copies=copies)
            key = value.name, cast
            if key not in widened:
                widened[key] = (
                    _cast(graph, value, TensorProto.FLOAT)
                    if cast
                    else graph.constant(value.name, value.values.astype(SINGLE))
                )
            node.set_input(i, widened[key])
    for value in node.outputs:
        if value is not None and value.dtype == HALF:
            graph.set_type(value, SINGLE, value.shape)
