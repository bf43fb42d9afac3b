"""Bodies that make integer weights of INT4 codes that are read as FP8: all constant, folded when the model is loaded.

=========================  ==================================================================================
Eighths                    cast8(group_scales * code), float32 (C_out, K), E4M3 numbers
EighthWeights              clip(rint(Eighths / steps)), int8, in the shape of the layer's weights
BlockQuantMatMul_eighths   MatMulNBits on codes + 8 and group_scales * first_scale: no FP8 in between
=========================  ==================================================================================

The numbers are those of `quant.eighth_image`.
"""

import numpy as np
from onnx import FunctionProto

from lpcompile.formats.base import resolve
from lpcompile.ir import block_matmul, float8
from lpcompile.ir.block_matmul import BLOCK, blocks_product
from lpcompile.ir.decode import EIGHTH_WEIGHTS, EIGHTHS, Storage
from lpcompile.ir.function import FunctionBuilder, ints
from lpcompile.ir.unpacking import whole

BLOCK_INPUTS = ("codes", "group_scales", "first_scale")


def bodies(opset: int) -> list[FunctionProto]:
    """What `decode.weights_int8` calls for such weights, each before who calls it."""
    return [float8.round_float8(opset), _eighths(opset), _eighth_weights(opset)]


def eighth_storage(*, transposed: bool) -> Storage:
    """How the codes of a layer are stored.

    Args:
        transposed: whether the operator wants (K, C_out).
    """
    return Storage(resolve("int4"), transposed=transposed, eighths=True)


def _eighths(opset: int) -> FunctionProto:
    b = FunctionBuilder(
        EIGHTHS, ["codes", "group_scales"], ["y"], "y = float8_e4m3fn(group_scale * int4 code)"
    )
    float8.expanded(b, out="y")
    return b.build(opset)


def _eighth_weights(opset: int) -> FunctionProto:
    doc = "y = clip(round_half_even(float8_e4m3fn(group_scale * int4 code) / steps))"
    b = FunctionBuilder(EIGHTH_WEIGHTS, ["codes", "group_scales", "steps"], ["y"], doc)
    shape = {"weight_shape": ints("weight_shape")}
    eighths = b.call(EIGHTHS, "codes", "group_scales", **shape, group_size=ints("group_size"))
    b.op("Identity", b.call("MergedWeights", eighths, "steps", **shape), out="y")
    return b.build(opset)


def block_quant_matmul(opset: int) -> FunctionProto:
    """BlockQuantMatMul_eighths: float32 (..., K) times (N, K) codes, K and groups multiples of 32 -> float32 (..., N).

    Inputs: x; codes, uint8, two a byte; group_scales (N, G) and first_scale () bfloat16.
    """
    doc = "y = MatMulNBits(x, codes + 8, group_scales * first_scale), accuracy_level 4: x is int8 by blocks of 32"
    b = FunctionBuilder(f"{block_matmul.FAMILY}_{EIGHTHS.lower()}", ["x", *BLOCK_INPUTS], ["y"], doc)
    b.declare("format", "granularity", "weight_shape")
    scales, first = (b.op("Cast", name, to=float8.FLOAT) for name in BLOCK_INPUTS[1:])
    rows = b.op("Unsqueeze", b.op("Mul", scales, first), whole(b, 2))  # (N, G, 1)
    times = b.op("Div", b.attribute("group_size"), whole(b, BLOCK))
    spread = b.op("Expand", rows, b.op("Concat", whole(b, 1, 1), times, axis=0))
    flat = b.op("Reshape", spread, b.constant(np.array([0, -1], np.int64)))
    blocks = b.op("Slice", b.attribute("block_shape"), whole(b, 1), whole(b, 2))
    used = b.op("Slice", flat, whole(b, 0), blocks, whole(b, 1))  # a row's last group may be short
    blocks_product(b, resolve("int4"), used)
    return b.build(opset)
