"""Forms that mean the same to ONNX but not to ONNX Runtime's CPU kernels.

An Add before a LayerNormalization is fused to SkipLayerNormalization, whose CPU kernel took 96 us where Add and
LayerNormalization together take 17 us (1 x 50 x 384, ONNX Runtime 1.31): docs/decisions/0008. `Sum` of two inputs is
the same operator to ONNX and escapes the fusion.

Codes that come from floats and that a convolution and an arithmetic operator read get their layout of the
convolutions at once: `channels_last`, docs/decisions/0015.
"""

from lpcompile.backends.ort.channels_last import channels_last
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node


def legalize(graph: LpGraph) -> list[str]:
    """Rewrite a graph in place, which no pass will read again; names of the nodes that changed."""
    changed = channels_last(graph)
    for node in graph.nodes("Add"):
        out = node.outputs[0]
        if out is None or not any(c.op == "LayerNormalization" and not c.domain for c in out.consumers):
            continue
        if _same_shape(node):
            _as_sum(graph, node)
            changed.append(node.name)
    return changed


def _same_shape(node: Node) -> bool:
    """The fusion needs operands of one shape; a broadcast Add is left to the faster kernel it has."""
    a, b = node.inputs[:2]
    return a is not None and b is not None and not a.is_constant and not b.is_constant


def _as_sum(graph: LpGraph, node: Node) -> None:
    outputs = [o for o in node.outputs if o is not None]
    if any(o.used_in_subgraph for o in outputs):
        return
    inputs, name, metadata = node.inputs, node.name, dict(node.metadata)
    types = [(o.name, o.dtype, o.shape) for o in outputs]
    graph.remove(node)
    new = graph.add_node("Sum", inputs, [n for n, _, _ in types], name=name, metadata=metadata)
    for value, (_, dtype, shape) in zip(new.outputs, types, strict=True):
        if value is not None:
            graph.set_type(value, dtype, shape)
