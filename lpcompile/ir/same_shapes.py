"""Operators of which ONNX's inference knows nothing, and whose result has the shape of what they read.

For inference alone, nodes whose shapes are known stand in their place.
"""

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, helper

from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN, is_of_runtime

_OF_RUNTIME = frozenset(
    {"BiasGelu", "FastGelu", "Gelu", "GroupNorm", "QuickGelu", "RotaryEmbedding", "SkipLayerNormalization",
     "SkipSimplifiedLayerNormalization"}
)  # fmt: skip
_QKV = 3


def stand_in(graph: GraphProto, opset: int) -> None:
    """Put an Identity of the first input in the place of each, and products in that of MultiHeadAttention."""
    nodes = [made for node in graph.node for made in _instead(node, opset)]
    if len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _instead(node: NodeProto, opset: int) -> Iterator[NodeProto]:
    known = node.op_type in _OF_RUNTIME and node.domain == RUNTIME_DOMAIN
    if node.domain in ("", "ai.onnx"):
        known = node.op_type == "GroupNormalization" or is_of_runtime(node.op_type, opset)
    if known and node.input and node.output:
        node.op_type, node.domain = "Identity", ""
        del node.input[1:], node.output[1:], node.attribute[:]
    heads = node.op_type == "MultiHeadAttention" and node.domain == RUNTIME_DOMAIN
    if heads and len(node.input) >= _QKV and all(node.input[:_QKV]) and node.output:
        yield from _attention(node)
    else:
        yield node


def _attention(node: NodeProto) -> Iterator[NodeProto]:
    """(q k^T) v, of queries, keys and values with three axes."""
    query, key, value = node.input[:_QKV]
    turned, scores = (f"{node.output[0]}/{name}" for name in ("turned", "scores"))
    yield helper.make_node("Transpose", [key], [turned], perm=[0, 2, 1])
    yield helper.make_node("MatMul", [query, turned], [scores])
    yield helper.make_node("MatMul", [scores, value], node.output[:1])
