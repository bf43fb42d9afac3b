"""The operators of domain `lpcompile`: what each computes, as a body of standard ops.

ONNX Runtime inlines the bodies and folds their constant part, so a 4-bit layer becomes the same QLinearConv, QGemm or
MatMulIntegerToFloat as an 8-bit one. [architecture 4; ort-lowering 0-3, 8, 9]

==========================  =====================================================================================
QuantConv                   acc = sum w8 * (x - x_zp) + bias;  y = clip(rne(acc * x_s * w_s / y_s) + y_zp)
QuantGemm, QuantMatMul      the same for matrices; `FloatOut` leaves y = acc * x_s * w_s as float32
DynamicQuantMatMul          x is quantised over its own range first (DynamicQuantizeLinear), y is float32
BlockQuantMatMul            x is rounded to int8 by blocks of 32, codes stay packed: MatMulNBits (block_matmul.py)
QuantNorm                   QuantConv of one product a channel: a norm that no layer took in (materialise.norms)
DequantizeWeights           w = w_s * w8 as float32, for an operator that runs on floats
QuantAdd, QuantMul, ...     dequantise, apply the float operator, quantise: one rounding
==========================  =====================================================================================

A trailing `_a4` says that y is held to 0..15.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto

from lpcompile.ir.concat_path import CONCAT_INPUTS, CONCAT_LABEL, concatenated
from lpcompile.ir.decode import Storage, channel_scale, weights_and_scale, weights_float
from lpcompile.ir.function import FunctionBuilder, integer, ints, real
from lpcompile.ir.movement import BINARY
from lpcompile.ir.separate_path import LABEL, PATH_INPUTS, with_path
from lpcompile.plan import CONCAT_IN, SEPARATE

CONV_ATTRIBUTES = ("strides", "pads", "dilations", "kernel_shape")
INT32 = 6  # ONNX's number of the type
# of side paths that stay apart: what names of functions say of them, and the last inputs of a call
PATHS = {"": ("", ()), SEPARATE: (LABEL, PATH_INPUTS), CONCAT_IN: (CONCAT_LABEL, CONCAT_INPUTS)}

# Elementwise operators: name -> references to their own attributes. Each body is dequantise, operator, quantise.
ELEMENTWISE: dict[str, dict[str, Any]] = {
    "Add": {},
    "Mul": {},
    "AveragePool": {
        **{k: ints(k) for k in ("kernel_shape", "strides", "pads")},
        "ceil_mode": integer("ceil_mode"),
        "count_include_pad": integer("count_include_pad"),
    },
    "GlobalAveragePool": {},
    "LeakyRelu": {"alpha": real("alpha")},
    "Sigmoid": {},
    "HardSwish": {},
    "HardSigmoid": {"alpha": real("alpha"), "beta": real("beta")},
    "Tanh": {},
    "Elu": {"alpha": real("alpha")},
}


def storage_attributes(storage: Storage) -> tuple[str, ...]:
    """Names of the attributes that the body reads to unpack weights in this storage."""
    if storage.eighths:
        return ("weight_shape", "group_size")
    if storage.packed and not storage.looked_up:
        return ("weight_shape", "code_count")
    return ("weight_shape", *(("group_size",) if storage.group_size else ()))


def _start(
    op: str, storage: Storage, inputs: Sequence[str], doc: str, *, suffix: str = ""
) -> FunctionBuilder:
    b = FunctionBuilder(f"{op}_{storage.label}{suffix}", inputs, ["y"], doc)
    b.declare("format", "granularity", *storage_attributes(storage))
    return b


def _held(b: FunctionBuilder, value: str, code_max: int) -> str:
    """Hold a uint8 result to a 4-bit range: `Min` after the fused kernel costs 1-2 %."""
    return value if code_max == 255 else b.op("Min", value, b.constant(np.array(code_max, np.uint8)))


def _suffix(code_max: int) -> str:
    return "" if code_max == 255 else f"_a{int(code_max).bit_length()}"


def _zeros_like(b: FunctionBuilder, scale: str, dtype: int) -> str:
    """Zero points of the scale's shape, which only the call knows."""
    return b.op("Cast", b.op("Mul", scale, b.constant(np.array(0, np.float32))), to=dtype)


def _finish(b: FunctionBuilder, value: str, opset: int) -> FunctionProto:
    if not _rename_last(b, value):
        b.op("Identity", value, out="y")
    return b.build(opset)


def _rename_last(b: FunctionBuilder, value: str) -> bool:
    if b.nodes and list(b.nodes[-1].output) == [value]:
        b.nodes[-1].output[0] = "y"
        return True
    return False


def quant_norm(storage: Storage, opset: int, *, code_max: int = 255) -> FunctionProto:
    """QuantNorm: uint8 (N, C, *spatial) -> uint8, one int8 weight, one scale and one int32 bias a channel."""
    return quant_conv(storage, opset, bias=True, code_max=code_max, name="QuantNorm")


def quant_conv(
    storage: Storage, opset: int, *, bias: bool, code_max: int = 255, name: str = "QuantConv"
) -> FunctionProto:
    """QuantConv: uint8 (N, C, *spatial) -> uint8, weights int8 per output channel, int32 bias."""
    inputs = [
        "x",
        "x_scale",
        "x_zero_point",
        *storage.inputs,
        *storage.format_inputs,
        "y_scale",
        "y_zero_point",
        *(["bias"] if bias else []),
    ]
    doc = "y = quantise(sum(w8 * (x - x_zero_point)) + bias)"
    b = _start(name, storage, inputs, doc, suffix=("" if bias else "_nobias") + _suffix(code_max))
    w8, scale = weights_and_scale(b, storage)
    zero = b.constant(np.array(0, np.int8))
    args = [
        "x",
        "x_scale",
        "x_zero_point",
        w8,
        scale,
        zero,
        "y_scale",
        "y_zero_point",
        *([b.op("Cast", "bias", to=INT32)] if bias else []),
    ]
    attributes: dict[str, Any] = {**{k: ints(k) for k in CONV_ATTRIBUTES}, "group": integer("group")}
    y = b.op("QLinearConv", *args, **attributes)
    return _finish(b, _held(b, y, code_max), opset)


def quant_gemm(
    storage: Storage, opset: int, *, bias: bool, float_out: bool, code_max: int = 255, path: str = ""
) -> FunctionProto:
    """QuantGemm: uint8 (M, K) times int8 (K, N) plus int32 bias -> uint8, or float32 with `float_out`.

    `path` is the lowering of a side path that stays apart: `separate` adds to the floats, `concat-in` is read beside x.
    """
    y_inputs = [] if float_out else ["y_scale", "y_zero_point"]
    weights = [*storage.inputs, *storage.format_inputs]
    label, paths = PATHS[path]
    inputs = ["x", "x_scale", "x_zero_point", *weights, *y_inputs, *(["bias"] if bias else []), *paths]
    doc = "y = (sum(w8 * (x - x_zero_point)) + bias) * x_scale * w_scale" + (
        "" if float_out else ", quantised to y"
    )
    b = _start(
        "QuantGemm",
        storage,
        inputs,
        doc,
        suffix=("" if bias else "_nobias") + ("_float" if float_out else "") + label + _suffix(code_max),
    )
    w8, scale = weights_and_scale(b, storage)
    codes, w8 = concatenated(b, "x", w8) if path == CONCAT_IN else ("x", w8)
    x = b.op("DequantizeLinear", codes, "x_scale", "x_zero_point")
    w = b.op("DequantizeLinear", w8, scale, _zeros_like(b, scale, 3), axis=1)  # no QGemm without zero points
    args = [x, w]
    if bias:
        unit = b.op("Mul", "x_scale", scale)
        whole = b.op("Cast", "bias", to=INT32)
        args.append(b.op("DequantizeLinear", whole, unit, _zeros_like(b, scale, INT32), axis=0))
    y = b.op("Gemm", *args)
    if path == SEPARATE:
        y = with_path(b, y)
    if not float_out:
        y = _held(b, b.op("QuantizeLinear", y, "y_scale", "y_zero_point"), code_max)
    return _finish(b, y, opset)


def quant_matmul(
    storage: Storage, opset: int, *, float_out: bool, code_max: int = 255, path: str = ""
) -> FunctionProto:
    """QuantMatMul: uint8 (..., K) times int8 (K, N) -> uint8, or float32 with `float_out`.

    `path` is the lowering of a side path that stays apart: `separate` adds to the floats, `concat-in` is read beside x.
    """
    label, paths = PATHS[path]
    inputs = [
        "x",
        "x_scale",
        "x_zero_point",
        *storage.inputs,
        *storage.format_inputs,
        *([] if float_out else ["y_scale", "y_zero_point"]),
        *paths,
    ]
    doc = "y = sum(w8 * (x - x_zero_point)) * x_scale * w_scale" + ("" if float_out else ", quantised to y")
    b = _start(
        "QuantMatMul",
        storage,
        inputs,
        doc,
        suffix=("_float" if float_out else "") + label + _suffix(code_max),
    )
    w8, scale = weights_and_scale(b, storage)
    codes, w8 = concatenated(b, "x", w8) if path == CONCAT_IN else ("x", w8)
    if float_out:
        x = b.op("DequantizeLinear", codes, "x_scale", "x_zero_point")
        y = b.op("MatMul", x, b.op("DequantizeLinear", w8, scale, axis=1))
        return _finish(b, with_path(b, y) if path == SEPARATE else y, opset)
    zero = b.op(
        "Cast", b.op("Mul", scale, b.constant(np.array(0, np.float32))), to=3
    )  # int8 (N,), as QLinearMatMul wants
    y = b.op("QLinearMatMul", codes, "x_scale", "x_zero_point", w8, scale, zero, "y_scale", "y_zero_point")
    return _finish(b, _held(b, y, code_max), opset)


def dynamic_quant_matmul(storage: Storage, opset: int, *, path: str = "") -> FunctionProto:
    """DynamicQuantMatMul: float32 (..., K), quantised to uint8 over its own range, times int8 (K, N) -> float32.

    `path` is the lowering of a side path that stays apart: `separate` adds to the floats, `concat-in` is read beside x.
    """
    label, paths = PATHS[path]
    doc = "x_q, x_scale, x_zero_point = DynamicQuantizeLinear(x); y = sum(w8 * (x_q - x_zero_point)) * scales"
    inputs = ["x", *storage.inputs, *storage.format_inputs, *paths]
    b = _start("DynamicQuantMatMul", storage, inputs, doc, suffix=label)
    w8, scale = weights_and_scale(b, storage)
    b.op("DynamicQuantizeLinear", "x", out="x_q")
    b.nodes[-1].output.extend(["x_scale", "x_zero_point"])
    codes, w8 = concatenated(b, "x_q", w8) if path == CONCAT_IN else ("x_q", w8)
    acc = b.op("Cast", b.op("MatMulInteger", codes, w8, "x_zero_point"), to=1)
    y = b.op("Mul", acc, b.op("Mul", "x_scale", scale))
    return _finish(b, with_path(b, y, "x_q") if path == SEPARATE else y, opset)


def dequantize_weights(storage: Storage, opset: int, rank: int, axis: int) -> FunctionProto:
    """DequantizeWeights: float32 weights of rank `rank`, output channels along `axis`; folded at load."""
    doc = "w = w_scale * w8, expanded when the model is loaded"
    inputs = [*storage.inputs, *storage.format_inputs]
    b = _start("DequantizeWeights", storage, inputs, doc, suffix=f"_r{rank}a{axis}")
    image = storage.format.image() is not None or storage.row_tables
    w8, scale = (
        weights_and_scale(b, storage) if image else (weights_float(b, storage), channel_scale(b, storage))
    )
    shape = [1] * rank
    shape[axis] = -1
    spread = b.op("Reshape", scale, b.constant(np.array(shape, np.int64)))
    return _finish(b, b.op("Mul", b.op("Cast", w8, to=1) if image else w8, spread), opset)


def quant_elementwise(op: str, opset: int, code_max: int = 255) -> FunctionProto:
    """Quant<op>: dequantise, `op`, quantise; a 256-entry table for every operator of one input."""
    names = ["a", "b"] if op in BINARY else ["x"]
    inputs = [part for n in names for part in (n, f"{n}_scale", f"{n}_zero_point")]
    b = FunctionBuilder(
        f"Quant{op}{_suffix(code_max)}",
        [*inputs, "y_scale", "y_zero_point"],
        ["y"],
        f"y = quantise({op}(...))",
    )
    args = [b.op("DequantizeLinear", n, f"{n}_scale", f"{n}_zero_point") for n in names]
    value = b.op(op, *args, **ELEMENTWISE[op])
    return _finish(b, _held(b, b.op("QuantizeLinear", value, "y_scale", "y_zero_point"), code_max), opset)
