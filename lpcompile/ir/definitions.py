"""What an operator computes, in elementary operators: the function that ONNX's schema defines it by, or our own text.

For analysis; the operator itself is what ONNX Runtime runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from lpcompile.errors import ModelError
from lpcompile.ir.export import write_node
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.grid_sample import grid_sample
from lpcompile.ir.group_query_attention import group_query_attention
from lpcompile.ir.multi_head_attention import multi_head_attention
from lpcompile.ir.node import Node
from lpcompile.ir.rotary_embedding import rotary_embedding
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.value import Value

# Those of ONNX whose parts can be differentiated. The function of AffineGrid is none that ONNX Runtime loads.
OF_ONNX = ("Attention", "CenterCropPad", "GridSample", "RotaryEmbedding")
_OURS: dict[tuple[str, str], Callable[[Node, int], FunctionProto | None]] = {
    ("", "GridSample"): grid_sample,
    (RUNTIME_DOMAIN, "GroupQueryAttention"): group_query_attention,
    (RUNTIME_DOMAIN, "MultiHeadAttention"): multi_head_attention,
    (RUNTIME_DOMAIN, "RotaryEmbedding"): rotary_embedding,
}
OF_RUNTIME = tuple(op for domain, op in _OURS if domain)
_DOMAIN = "lpcompile.definition"
_OPSET = 13  # from where our texts are valid, and gradients are added


def is_defined(node: Node) -> bool:
    """Whether the operator, in some of its forms, has a definition."""
    return node.op in (OF_RUNTIME if node.domain == RUNTIME_DOMAIN else () if node.domain else OF_ONNX)


def definition(node: Node, opset: int) -> LpGraph | None:
    """The parts of a node, as a graph with shapes inferred; None where they are not known.

    Its inputs are called as the node's are, less those that are constants other than floats; its outputs too, and it
    has those that the node has.

    Args:
        node: of the operators above.
        opset: of its graph.
    """
    given = [v for v in node.inputs if v is not None]
    if any(v.dtype is None or (v.shape is None and not v.is_constant) for v in given):
        return None
    call = NodeProto()
    write_node(call, node._raw)
    if ours := _OURS.get((node.domain, node.op)):
        opset = max(opset, _OPSET)
        body = ours(node, opset)
        del call.attribute[:]  # our text holds what they say
    else:
        body = _of_schema(call, node.inputs, opset)
    if body is None:
        return None
    body.domain, body.name = _DOMAIN, node.op
    call.domain = _DOMAIN
    try:
        graph = LpGraph.from_proto(_around(call, body, list(dict.fromkeys(given)), opset))
    except ModelError:  # a function that this opset cannot hold
        return None
    graph.infer_shapes()
    return graph


def _of_schema(call: NodeProto, inputs: Sequence[Value | None], opset: int) -> FunctionProto | None:
    """The function of the newest version that the opset has."""
    try:
        schema: Any = onnx.defs.get_schema(call.op_type, opset, "")  # the stubs of onnx know no functions
    except onnx.defs.SchemaError:
        return None
    known = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if not known:
        return None
    types = [TypeProto() if v is None else _type(v) for v in inputs]
    data = schema.get_context_dependent_function_with_opset_version(
        max(known), call.SerializeToString(), [t.SerializeToString() for t in types]
    )
    return FunctionProto.FromString(data) if data else None


def _around(call: NodeProto, body: FunctionProto, given: Sequence[Value], opset: int) -> ModelProto:
    fixed = [v for v in given if v.is_constant and v.values.dtype.kind != "f"]
    inputs = [ValueInfoProto(name=v.name, type=_type(v)) for v in given if v not in fixed]
    outputs = [ValueInfoProto(name=name) for name in call.output if name]
    held = [numpy_helper.from_array(np.ascontiguousarray(v.values), v.name) for v in fixed]
    graph = helper.make_graph([call], "definition", inputs, outputs, held)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(_DOMAIN, 1)]
    del body.opset_import[:]
    body.opset_import.append(imports[0])
    return helper.make_model(graph, opset_imports=imports, functions=[body])


def _type(value: Value) -> TypeProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    shape = value.dims if value.is_constant else value.shape
    return helper.make_tensor_type_proto(kind, None if shape is None else list(shape))
