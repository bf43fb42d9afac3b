"""Rule of `canonicalize`: a norm that adds before it normalises is spelled as the sum and the norm.

SkipLayerNormalization and SkipSimplifiedLayerNormalization of `com.microsoft`, as ONNX Runtime's optimisers write them.
A bias goes to the product of a layer, if there is one. On a CPU the parts are the faster (docs/decisions/0008).
"""

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.constant_inputs import input_at, output_at
from lpcompile.passes.node_replacement import part

NORMS = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}
_EPSILON = 1e-12  # of the runtime, where an attribute says nothing else
_LAYERS = ("Gemm", "MatMul")


def split_norm(graph: LpGraph, node: Node) -> str:
    """Put an Add and a norm in a node's place; why not, or nothing."""
    x, skip, scale = (input_at(node, i) for i in range(3))
    centred = node.op == "SkipLayerNormalization"
    shift, bias = (input_at(node, 3), input_at(node, 4)) if centred else (None, input_at(node, 3))
    outputs = [*node.outputs, None, None, None][:4]
    if outputs[1] is not None or outputs[2] is not None:
        return "its means or deviations are read"
    if x is None or skip is None or scale is None:
        return "it reads less than two tensors and a scale"
    if bias is not None:
        if x.producer is None or x.producer.op not in _LAYERS:
            x, skip = (skip, x) if skip.producer is not None and skip.producer.op in _LAYERS else (x, skip)
        x = part(graph, node, "Add", [x, bias], like=x)
    total = part(graph, node, "Add", [x, skip], like=x)
    norm = graph.add_node(
        NORMS[node.op],
        [total, scale, shift] if centred else [total, scale],
        name=node.name,
        attrs={"axis": -1, "epsilon": float(node.attrs.get("epsilon", _EPSILON))},
        before=node,
        metadata=dict(node.metadata),
    )
    graph.set_type(
        output_at(norm), output_at(node).dtype or total.dtype, output_at(node).shape or total.shape
    )
    if outputs[3] is not None:
        graph.replace_uses(outputs[3], total)
    graph.replace_uses(output_at(node), output_at(norm))
    graph.remove(node)
    return ""
