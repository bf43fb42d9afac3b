"""Operators that compute with integers or packed codes: what a model holds that was quantised before it came."""

from collections import Counter

from lpcompile.ir.graph import LpGraph

# of ai.onnx and com.microsoft; DynamicQuantizeLinear and QuantizeLinear stand beside them
QUANTISED = frozenset(
    {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat",
     "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "MatMulBnb4", "QAttention", "QLinearAdd"}
)  # fmt: skip


def quantised_before(graph: LpGraph) -> str | None:
    """What was quantised before, as `21 ConvInteger, 1 MatMulInteger`; None for a float model.

    Layers whose weights come from a DequantizeLinear count as quantised, whatever their own operator is.
    """
    found: Counter[str] = Counter(n.op for n in graph.nodes() if n.op in QUANTISED)
    for node in graph.nodes("Conv", "Gemm", "MatMul"):
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        maker = None if weight is None else weight.producer
        if maker is not None and maker.op == "DequantizeLinear":
            found[f"{node.op} of dequantised weights"] += 1
    return ", ".join(f"{count} {op}" for op, count in found.most_common(3)) or None
