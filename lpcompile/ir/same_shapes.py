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
_SUM = 3  # output of SkipLayerNormalization
_SPLITS_BY_NUMBER = 18  # opset from which Split is told how many parts


def stand_in(graph: GraphProto, opset: int) -> None:
    """Put an Identity of the first input in the place of each, and others in that of attention."""
    nodes = [made for node in graph.node for made in _instead(node, opset)]
    if len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _instead(node: NodeProto, opset: int) -> Iterator[NodeProto]:
    known = node.op_type in _OF_RUNTIME and node.domain == RUNTIME_DOMAIN
    if node.domain in ("", "ai.onnx"):
        known = node.op_type == "GroupNormalization" or is_of_runtime(node.op_type, opset)
    if known and node.input and node.output:
        if len(node.output) > _SUM and node.output[_SUM]:  # what the norm reads
            yield helper.make_node("Identity", [node.input[0]], [node.output[_SUM]])
        _to_identity(node)
    runtimes = node.domain == RUNTIME_DOMAIN
    if runtimes and node.op_type == "GroupQueryAttention" and node.input and node.output:
        yield from _queries(node, opset)
        return
    heads = node.op_type == "MultiHeadAttention" and runtimes
    if heads and len(node.input) >= _QKV and all(node.input[:_QKV]) and node.output:
        yield from _attention(node)
    else:
        yield node


def _to_identity(node: NodeProto) -> None:
    node.op_type, node.domain = "Identity", ""
    del node.input[1:], node.output[1:], node.attribute[:]


def _queries(node: NodeProto, opset: int) -> Iterator[NodeProto]:
    """The queries, of a tensor of their own or in front of keys and values."""
    query, y = node.input[0], node.output[0]
    if len(node.input) > 1 and node.input[1]:
        _to_identity(node)
        yield node
        return
    counts = {a.name: a.i for a in node.attribute}
    heads, shared = counts.get("num_heads", 1), counts.get("kv_num_heads", 1)
    if heads <= 0 or shared <= 0:
        yield node
        return
    parts = [f"{y}/head{i}" for i in range(heads + 2 * shared)]
    split = helper.make_node("Split", [query], parts, axis=2)
    if opset >= _SPLITS_BY_NUMBER:
        split.attribute.append(helper.make_attribute("num_outputs", len(parts)))
    yield split
    yield helper.make_node("Concat", parts[:heads], [y], axis=2)


def _attention(node: NodeProto) -> Iterator[NodeProto]:
    """(q k^T) v, of queries, keys and values with three axes."""
    query, key, value = node.input[:_QKV]
    turned, scores = (f"{node.output[0]}/{name}" for name in ("turned", "scores"))
    yield helper.make_node("Transpose", [key], [turned], perm=[0, 2, 1])
    yield helper.make_node("MatMul", [query, turned], [scores])
    yield helper.make_node("MatMul", [scores, value], node.output[:1])
