"""Bodies that merge a low-rank side path into the int8 weights of a layer: all constant, folded at load.

===============  ======================================================================================
RepairedWeights  V = w_scale * w8 + unit * sum_j multipliers_j * b_j * a_j, float32 (C_out, K)
MergedScale      t = max(max |V|, 2^-100) / 127 of every row, (C_out,)
MergedWeights    rint(V / t), int8, in the shape of the layer's weights
===============  ======================================================================================

The sum is exact, everything else is arithmetic of single elements: the numbers are those of `quant.side_path`.
"""

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.function import FunctionBuilder, ints
from lpcompile.quant.side_path import LARGEST, LEAST_REACH

SIDE_INPUTS = ("side_b", "side_a", "side_multipliers", "side_unit")
_AXES_AS_INPUT = 18  # opset from which ReduceMax has them so
_COLUMN = np.array([-1, 1], np.int64)


def repaired_weights(b: FunctionBuilder, w8: str, scale: str) -> str:
    """Call of RepairedWeights."""
    return b.call("RepairedWeights", w8, scale, *SIDE_INPUTS)


def merged_scale(b: FunctionBuilder, repaired: str) -> str:
    """Call of MergedScale."""
    return b.call("MergedScale", repaired)


def merged_weights(b: FunctionBuilder, repaired: str, scale: str) -> str:
    """Call of MergedWeights."""
    return b.call("MergedWeights", repaired, scale, weight_shape=ints("weight_shape"))


def repaired_weights_body(opset: int) -> FunctionProto:
    """Of RepairedWeights."""
    doc = "y = w_scale * w8 + unit * sum_j multipliers_j * b_j * a_j"
    b = FunctionBuilder("RepairedWeights", ["w8", "w_scale", *SIDE_INPUTS], ["y"], doc)
    left, right, n = (b.op("Cast", name, to=TensorProto.FLOAT) for name in SIDE_INPUTS[:3])
    side = b.op("Mul", b.op("MatMul", b.op("Mul", left, n), right), "side_unit")
    rows = b.op("Reshape", b.op("Cast", "w8", to=TensorProto.FLOAT), b.constant(np.array([0, -1], np.int64)))
    main = b.op("Mul", rows, b.op("Reshape", "w_scale", b.constant(_COLUMN)))
    b.op("Add", main, side, out="y")
    return b.build(opset)


def merged_scale_body(opset: int) -> FunctionProto:
    """Of MergedScale."""
    b = FunctionBuilder("MergedScale", ["x"], ["y"], "y = max(max |x|, 2^-100) / 127, row by row")
    sizes = b.op("Abs", "x")
    if opset >= _AXES_AS_INPUT:
        reach = b.op("ReduceMax", sizes, b.constant(np.array([1], np.int64)), keepdims=0)
    else:
        reach = b.op("ReduceMax", sizes, axes=[1], keepdims=0)
    held = b.op("Max", reach, b.constant(np.array(LEAST_REACH, np.float32)))
    b.op("Div", held, b.constant(np.array(LARGEST, np.float32)), out="y")
    return b.build(opset)


def merged_weights_body(opset: int) -> FunctionProto:
    """Of MergedWeights."""
    b = FunctionBuilder("MergedWeights", ["x", "scale"], ["y"], "y = round_half_even(x / scale)")
    steps = b.op("Div", "x", b.op("Reshape", "scale", b.constant(_COLUMN)))
    whole = b.op("Cast", b.op("Round", steps), to=TensorProto.INT8)
    b.op("Reshape", whole, b.attribute("weight_shape"), out="y")
    return b.build(opset)
