"""What a model takes: bytes of its constants, and of the whole file. [architecture 7].

The initialisers of a compiled model, those of control-flow bodies too, may take no more bytes than those of its input,
and its file may be 64 KiB larger. Constant nodes of the input count as initialisers, which is how they are read; the
tables in function bodies are code and count for the file alone. So do tensors of fewer than 64 elements (a scale, a
zero point, axes, a shape): a Reshape target written down, or an attribute that became an input, refuses no model.
"""

import math
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto

from lpcompile.ir import export
from lpcompile.ir.dtypes import stored_bytes
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.weights import Weights

FILE_GROWTH_BYTES = 64 << 10
COUNTED_ELEMENTS = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one model.

    Attributes:
        constant_bytes: of initialisers with at least COUNTED_ELEMENTS elements.
        file_bytes: of the file with its external data.
    """

    constant_bytes: int
    file_bytes: int

    @classmethod
    def of_graph(cls, graph: LpGraph, file_bytes: int) -> "Sizes":
        """Of a model that was read; its weights are not touched."""
        return cls(constant_bytes(export.model_proto(graph, _without_data)), file_bytes)

    @classmethod
    def of_proto(cls, proto: ModelProto) -> "Sizes":
        """Of a model as it would be written."""
        return cls(constant_bytes(proto), proto.ByteSize())

    def excess(self, allowed: "Sizes") -> str:
        """What is too large for a model made of an `allowed` one; empty where nothing is."""
        if self.constant_bytes > allowed.constant_bytes:
            return f"its initialisers take {self.constant_bytes} bytes, those of the input {allowed.constant_bytes}"
        if self.file_bytes > allowed.file_bytes + FILE_GROWTH_BYTES:
            return f"the file would grow from {allowed.file_bytes} to {self.file_bytes} bytes"
        return ""


def constant_bytes(proto: ModelProto) -> int:
    """Bytes of the initialisers of a model that are no bookkeeping.

    Constant nodes count in the bodies of control flow, where exporters put weights. Outside a reader of models makes
    initialisers of them, and what is left are the tables of compiled layers.
    """
    return _in_graph(proto.graph)


def _in_graph(graph: GraphProto, *, body: bool = False) -> int:
    sparse = (t for s in graph.sparse_initializer for t in (s.values, s.indices))
    attributes = [(node, a) for node in graph.node for a in node.attribute]
    bodies = (g for _, a in attributes for g in (*a.graphs, *([a.g] if a.HasField("g") else [])))
    written = (a.t for node, a in attributes if body and node.op_type == "Constant" and a.name == "value")
    held = sum(map(_counted, (*graph.initializer, *sparse, *written)))
    return held + sum(_in_graph(g, body=True) for g in bodies)


def _counted(tensor: TensorProto) -> int:
    elements = math.prod(tensor.dims)
    return stored_bytes(tensor.data_type, elements) if elements >= COUNTED_ELEMENTS else 0


def _without_data(target: TensorProto, name: str, weights: Weights) -> None:
    weights.write_header(target, name)
