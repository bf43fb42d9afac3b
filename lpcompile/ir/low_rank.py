"""Bodies that merge a low-rank side path into the int8 weights of a layer: all constant, folded at load.

===============  ==============================================================================================
RepairedWeights  V = w8 + unit * sum_j multipliers_j * b_j * a_j, float32 (C_out, K), exact
MergedWeights    clip(rint(V / t)) with t = step_unit * steps, int8, in the shape of the layer's weights
===============  ==============================================================================================

The numbers are those of `quant.side_path`. Whatever a body computes stays in memory until the whole model is loaded, so
there is one float of four bytes a weight for w8 and one for V, and no more.
"""

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.function import FunctionBuilder, ints

FACTOR_INPUTS = ("side_b", "side_a", "side_multipliers", "side_unit")
SIDE_INPUTS = (*FACTOR_INPUTS, "side_steps", "side_step_unit")


def merged(b: FunctionBuilder, w8: str, scale: str) -> tuple[str, str]:
    """Calls of the two, and the product of scales: the merged weights and their scale.

    Args:
        b: of a function with the inputs SIDE_INPUTS.
        w8: int8 weights of the main path, output channels first.
        scale: float32 (C_out,).
    """
    repaired = b.call("RepairedWeights", w8, *FACTOR_INPUTS)
    steps = b.op("Mul", b.op("Cast", "side_steps", to=TensorProto.FLOAT), "side_step_unit")
    weights = b.call("MergedWeights", repaired, steps, weight_shape=ints("weight_shape"))
    return weights, b.op("Mul", scale, steps)


def repaired_weights_body(opset: int) -> FunctionProto:
    """Of RepairedWeights."""
    doc = "y = w8 + unit * sum_j multipliers_j * b_j * a_j"
    b = FunctionBuilder("RepairedWeights", ["w8", *FACTOR_INPUTS], ["y"], doc)
    left, right, n = (b.op("Cast", name, to=TensorProto.FLOAT) for name in FACTOR_INPUTS[:3])
    left = b.op("Mul", b.op("Mul", left, n), "side_unit")
    rows = b.op("Reshape", "w8", b.constant(np.array([0, -1], np.int64)))
    b.op("Gemm", left, right, b.op("Cast", rows, to=TensorProto.FLOAT), out="y")
    return b.build(opset)


def merged_weights_body(opset: int) -> FunctionProto:
    """Of MergedWeights."""
    b = FunctionBuilder("MergedWeights", ["x", "steps"], ["y"], "y = clip(round_half_even(x / steps))")
    zeros = b.op("Cast", b.op("Mul", "steps", b.constant(np.array(0, np.float32))), to=TensorProto.INT8)
    whole = b.op("QuantizeLinear", "x", "steps", zeros, axis=0)
    b.op("Reshape", whole, b.attribute("weight_shape"), out="y")
    return b.build(opset)
