"""Operators whose result has the type and shape of what they read, and of which ONNX's inference knows nothing."""

from onnx import GraphProto

_OF_ONNX = frozenset({"GroupNormalization", "SimplifiedLayerNormalization"})
_OF_RUNTIME = frozenset(
    {"BiasGelu", "FastGelu", "Gelu", "GroupNorm", "QuickGelu", "RotaryEmbedding", "SkipLayerNormalization",
     "SkipSimplifiedLayerNormalization"}
)  # fmt: skip
_RUNTIME = "com.microsoft"


def stand_in(graph: GraphProto) -> None:
    """Put an Identity of the first input in the place of each, for inference alone."""
    for node in graph.node:
        known = _OF_ONNX if node.domain in ("", "ai.onnx") else _OF_RUNTIME if node.domain == _RUNTIME else ()
        if node.op_type in known and node.input and node.output:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.output[1:], node.attribute[:]
