"""Bodies that merge a low-rank side path into the int8 weights of a layer: all constant, folded at load.

===============  ==============================================================================================
RepairedWeights  V = w8 + unit * sum_j multipliers_j * b_j * a_j, float32 (C_out, K), exact
MergedSteps      t = max(max |V|, 2^-10) / 127 of every row, (C_out,)
MergedWeights    rint(V / t), int8, in the shape of the layer's weights
===============  ==============================================================================================

The numbers are those of `quant.side_path`. Whatever a body computes stays in memory until the whole model is loaded, so
there is one float of four bytes a weight for w8 and one for V, and no more.
"""

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.function import FunctionBuilder, ints
from lpcompile.quant.side_path import LARGEST, LEAST_REACH

SIDE_INPUTS = ("side_b", "side_a", "side_multipliers", "side_unit")
_AXES_AS_INPUT = 18  # opset from which reductions have them so


def merged(b: FunctionBuilder, w8: str, scale: str) -> tuple[str, str]:
    """Calls of the three, and the product of scales: the merged weights and their scale.

    Args:
        b: of a function with the inputs SIDE_INPUTS.
        w8: int8 weights of the main path, output channels first.
        scale: float32 (C_out,).
    """
    repaired = b.call("RepairedWeights", w8, *SIDE_INPUTS)
    steps = b.call("MergedSteps", repaired)
    weights = b.call("MergedWeights", repaired, steps, weight_shape=ints("weight_shape"))
    return weights, b.op("Mul", scale, steps)


def repaired_weights_body(opset: int) -> FunctionProto:
    """Of RepairedWeights."""
    doc = "y = w8 + unit * sum_j multipliers_j * b_j * a_j"
    b = FunctionBuilder("RepairedWeights", ["w8", *SIDE_INPUTS], ["y"], doc)
    left, right, n = (b.op("Cast", name, to=TensorProto.FLOAT) for name in SIDE_INPUTS[:3])
    left = b.op("Mul", b.op("Mul", left, n), "side_unit")
    rows = b.op("Reshape", "w8", b.constant(np.array([0, -1], np.int64)))
    b.op("Gemm", left, right, b.op("Cast", rows, to=TensorProto.FLOAT), out="y")
    return b.build(opset)


def merged_steps_body(opset: int) -> FunctionProto:
    """Of MergedSteps."""
    b = FunctionBuilder("MergedSteps", ["x"], ["y"], "y = max(max |x|, 2^-10) / 127, row by row")
    if opset >= _AXES_AS_INPUT:
        axes = b.constant(np.array([1], np.int64))
        high, low = (b.op(op, "x", axes, keepdims=0) for op in ("ReduceMax", "ReduceMin"))
    else:
        high, low = (b.op(op, "x", axes=[1], keepdims=0) for op in ("ReduceMax", "ReduceMin"))
    reach = b.op("Max", high, b.op("Neg", low), b.constant(np.array(LEAST_REACH, np.float32)))
    b.op("Div", reach, b.constant(np.array(LARGEST, np.float32)), out="y")
    return b.build(opset)


def merged_weights_body(opset: int) -> FunctionProto:
    """Of MergedWeights."""
    b = FunctionBuilder("MergedWeights", ["x", "steps"], ["y"], "y = round_half_even(x / steps)")
    zeros = b.op("Cast", b.op("Mul", "steps", b.constant(np.array(0, np.float32))), to=TensorProto.INT8)
    whole = b.op("QuantizeLinear", "x", "steps", zeros, axis=0)
    b.op("Reshape", whole, b.attribute("weight_shape"), out="y")
    return b.build(opset)
