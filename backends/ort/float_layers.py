"""Layers that stay float behind integers really stay float.

ONNX Runtime rounds float32 weights of a Conv, ConvTranspose or Gemm that reads a DequantizeLinear to int8 with one
scale for the whole tensor (its WeightBiasQuantization, at load; 1.32), whatever its outputs go to: a layer that was
kept float for its sensitivity had 30 dB of noise from it. A Clip that clips nothing stands between the two and ends
that; it costs one pass over the layer's input. docs/decisions/0035
"""

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

ROUNDED_AT_LOAD = ("Conv", "ConvTranspose", "Gemm")
DEQUANTIZE = "DequantizeLinear"


def keep_floats(graph: LpGraph) -> list[str]:
    """Put a Clip before such layers, one for each tensor that they read; names of the layers."""
    clipped: dict[str, Value] = {}
    bounds: list[Value] = []
    changed = []
    for node in [n for op in ROUNDED_AT_LOAD for n in graph.nodes(op)]:
        x = node.inputs[0]
        if x is None or not _is_dequantized(x) or _has_integer_weights(node):
            continue
        if x.name not in clipped:
            bounds = bounds or _bounds(graph)
            clipped[x.name] = _clipped(graph, x, bounds)
        node.set_input(0, clipped[x.name])
        changed.append(node.name)
    return changed


def _bounds(graph: LpGraph) -> list[Value]:
    limits = np.finfo(np.float32)
    ends = (("min", limits.min), ("max", limits.max))
    return [graph.constant(f"float32_{role}", np.array(end, np.float32)) for role, end in ends]


def _clipped(graph: LpGraph, x: Value, bounds: list[Value]) -> Value:
    (found,) = graph.add_node("Clip", [x, *bounds], [graph.fresh(f"{x.name}/float")]).outputs
    assert found is not None
    graph.set_type(found, x.dtype, x.shape)
    return found


def _is_dequantized(x: Value) -> bool:
    return x.producer is not None and not x.producer.domain and x.producer.op == DEQUANTIZE


def _has_integer_weights(node: Node) -> bool:
    weight = node.inputs[1]
    return node.domain != "" or (weight is not None and _is_dequantized(weight))
