"""Function bodies of FP8 arithmetic in float32: every number an E4M3 number, and no float8 tensor in the graph.

ONNX Runtime's float8 conversions on CPUs take 7 times as long as these nine vectorised operators, and need opset 19;
here opset 13 does (docs/decisions/0043).

======================  ==============================================================================================
RoundFloat8             y = scale * cast8(x / scale), scale a power of two; saturates at 448 * scale
DualPrecisionWeights    w = first_scale * cast8(group_scale * code), folded when the model is loaded
Float8Weights           w = first_scale of the row * E4M3 number of an 8-bit code, the same
======================  ==============================================================================================

Rounding: S, the power of two of x's leading bit, is |q - (1 - u) q| with q = x (2^23 + 1), u = 2^-24 [rump2008, 3.6];
below the smallest normal number it is that number. Then (x + C) - C with C = 1.5 * 2^20 S leaves multiples of S / 8:
the sum's last bit is worth just that, and its rounding is half to even.
"""

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.formats.base import resolve
from lpcompile.ir.function import DOMAIN, FunctionBuilder
from lpcompile.ir.unpacking import nibbles, spread, whole

LARGEST, SMALLEST_NORMAL = 448.0, 2.0**-6
FLOAT = TensorProto.FLOAT
BLOCKS = "Blocks"
ROUND, WEIGHTS, WIDE_WEIGHTS = "RoundFloat8", "DualPrecisionWeights", "Float8Weights"


def round_float8(opset: int) -> FunctionProto:
    """RoundFloat8: float32 x and scale () -> float32."""
    b = FunctionBuilder(ROUND, ["x", "scale"], ["y"], "y = scale * float8_e4m3fn(x / scale), saturating")
    high = b.op("Mul", "scale", _real(b, LARGEST))
    least = b.op("Mul", "scale", _real(b, SMALLEST_NORMAL))
    x = b.op("Clip", "x", b.op("Neg", high), high)
    q = b.op("Mul", x, _real(b, 2.0**23 + 1))
    leading = b.op("Abs", b.op("Sub", q, b.op("Mul", q, _real(b, 1 - 2.0**-24))))
    c = b.op("Mul", b.op("Max", leading, least), _real(b, 1.5 * 2.0**20))
    b.op("Sub", b.op("Add", x, c), c, out="y")
    return b.build(opset)


def dual_precision_weights(opset: int, rank: int, axis: int, *, blocks: bool = False) -> FunctionProto:
    """DualPrecisionWeights: float32 weights of rank `rank`, output channels along `axis`; folded at load.

    Inputs: codes, uint8, two a byte, (C_out, K) row by row; group_scales (C_out, G) and first_scale () bfloat16.
    With `blocks` the products as they are, not rounded to FP8.
    """
    name, doc = f"{WEIGHTS}_r{rank}a{axis}", "w = first_scale * float8_e4m3fn(group_scale * int4 code)"
    if blocks:
        name, doc = f"{WEIGHTS}{BLOCKS}_r{rank}a{axis}", "w = first_scale * group_scale * int4 code"
    b = FunctionBuilder(name, ["codes", "group_scales", "first_scale"], ["y"], doc)
    b.declare("format", "granularity", "weight_shape", "group_size")
    numbers = products(b) if blocks else expanded(b)
    w = b.op("Mul", numbers, b.op("Cast", "first_scale", to=FLOAT))
    if axis:
        b.op("Transpose", w, perm=[1, 0], out="y")
    else:
        b.op("Reshape", w, b.attribute("weight_shape"), out="y")
    return b.build(opset)


def expanded(b: FunctionBuilder, out: str | None = None) -> str:
    """(C_out, K) the E4M3 numbers of a body's inputs `codes` and `group_scales`, float32."""
    return b.op(ROUND, products(b), _real(b, 1.0), domain=DOMAIN, out=out)


def products(b: FunctionBuilder) -> str:
    """(C_out, K) `codes` times `group_scales`, float32."""
    shape = b.attribute("weight_shape")
    used = b.op("Slice", nibbles(b, "codes"), whole(b, 0), b.op("ReduceProd", shape))
    levels = b.constant(np.array([*range(8), *range(-8, 0)], np.float32))
    rows = b.op("Concat", b.op("Gather", shape, whole(b, 0)), whole(b, -1), axis=0)
    values = b.op("Reshape", b.op("Gather", levels, used), rows)
    scales = spread(b, values, b.op("Cast", "group_scales", to=FLOAT), b.attribute("group_size"))
    return b.op("Mul", values, scales)


def float8_weights(opset: int, rank: int, axis: int) -> FunctionProto:
    """Float8Weights: float32 weights of rank `rank`, output channels along `axis`; folded at load.

    Inputs: codes, uint8 (C_out, K), and first_scale (C_out, 1) bfloat16. No float8 tensor, which needs opset 19.
    """
    name, doc = f"{WIDE_WEIGHTS}_r{rank}a{axis}", "w = first_scale * float8_e4m3fn(code)"
    b = FunctionBuilder(name, ["codes", "first_scale"], ["y"], doc)
    b.declare("format", "granularity", "weight_shape")
    table = b.constant(np.nan_to_num(resolve("float8_e4m3fn").table()).astype(np.float32))
    values = b.op("Gather", table, b.op("Cast", "codes", to=TensorProto.INT32))
    w = b.op("Mul", values, b.op("Cast", "first_scale", to=FLOAT))
    if axis:
        b.op("Transpose", w, perm=[1, 0], out="y")
    else:
        b.op("Reshape", w, b.attribute("weight_shape"), out="y")
    return b.build(opset)


def _real(b: FunctionBuilder, value: float) -> str:
    return b.constant(np.array(value, np.float32))
