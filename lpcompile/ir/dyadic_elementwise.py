"""Work without weights on a reference graph's 8-bit codes: sums, products, pools, norms, tables; all exact.

============================  ===================================================================================
DyadicAdd                     y = clip(((a * m_a + b * m_b + c) >> k) + zero, low, high); zero points are inside c
DyadicMul                     y = clip((((a - a_zero_point) * (b - b_zero_point) * m + c) >> k) + zero, low, high)
DyadicAveragePool,            acc = sum of (x - x_zero_point) over a window, or over all;
DyadicGlobalAveragePool       y = clip(((acc * m + b) >> k) + zero, low, high); m may depend on the position
QuantNorm                     y = clip(((x * m + b) >> k) + zero, low, high), m, b, k by channel
Lookup                        y = table[x]
============================  ===================================================================================
"""

from typing import Any

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.dyadic import (
    DOUBLE,
    FLOAT,
    USUAL_TRAILING,
    clip_to_codes,
    number,
    requantise,
    trailing_suffix,
)
from lpcompile.ir.function import FunctionBuilder, integer, ints

LIMITS = ("zero", "low", "high")


def dyadic_add(opset: int) -> FunctionProto:
    """DyadicAdd: uint8 a and b, broadcast, to uint8 with one rounding."""
    doc = "y = clip(((a * m_a + b * m_b + c) >> k) + zero, low, high)"
    b = FunctionBuilder("DyadicAdd", ["a", "b"], ["y"], doc)
    power = _power(b)
    terms = [
        b.op("Mul", b.op("Cast", n, to=DOUBLE), b.op("Div", number(b, f"m_{n}", DOUBLE), power))
        for n in ("a", "b")
    ]
    _finish(b, b.op("Add", *terms), power)
    return b.build(opset)


def dyadic_mul(opset: int) -> FunctionProto:
    """DyadicMul: uint8 a and b, broadcast, to uint8 with one rounding."""
    doc = "y = clip((((a - a_zero_point) * (b - b_zero_point) * m + c) >> k) + zero, low, high)"
    b = FunctionBuilder("DyadicMul", ["a", "b"], ["y"], doc)
    power = _power(b)
    a, other = (
        b.op("Sub", b.op("Cast", n, to=DOUBLE), number(b, f"{n}_zero_point", DOUBLE)) for n in ("a", "b")
    )
    product = b.op("Mul", b.op("Mul", a, other), b.op("Div", number(b, "m", DOUBLE), power))
    _finish(b, product, power)
    return b.build(opset)


def _power(b: FunctionBuilder) -> str:
    shift = b.op("Cast", b.op("Constant", value_int=integer("k")), to=TensorProto.UINT64)
    one = b.constant(np.array(1, np.uint64))
    return b.op("Cast", b.op("BitShift", one, shift, direction="LEFT"), to=DOUBLE)


def _finish(b: FunctionBuilder, value: str, power: str) -> None:
    shift = b.op("Add", b.op("Div", number(b, "c", DOUBLE), power), number(b, "zero", DOUBLE))
    clip_to_codes(b, b.op("Add", value, shift))


def dyadic_average_pool(opset: int) -> FunctionProto:
    """DyadicAveragePool: uint8 (N, C, *spatial); a sum over windows is a convolution with ones."""
    doc = "acc = sum over the window of (x - x_zero_point); y = clip(((acc * m + b) >> k) + zero, low, high)"
    b = FunctionBuilder("DyadicAveragePool", ["x", "m", "b", "k"], ["y"], doc)
    x = b.op("Sub", b.op("Cast", "x", to=FLOAT), number(b, "x_zero_point", FLOAT))
    ones = b.op("Expand", b.constant(np.array(1, np.float32)), b.attribute("weight_shape"))
    attributes: dict[str, Any] = {k: ints(k) for k in ("kernel_shape", "strides", "pads", "dilations")}
    acc = b.op("Conv", x, ones, group=integer("group"), **attributes)
    requantise(b, b.op("Cast", acc, to=DOUBLE), 0)
    return b.build(opset)


def dyadic_global_average_pool(opset: int, spatial: int = USUAL_TRAILING) -> FunctionProto:
    """DyadicGlobalAveragePool: uint8 (N, C, *spatial) to (N, C, 1, ...)."""
    doc = "acc = sum over all of (x - x_zero_point); y = clip(((acc * m + b) >> k) + zero, low, high)"
    name = "DyadicGlobalAveragePool" + trailing_suffix(spatial)
    b = FunctionBuilder(name, ["x", "m", "b", "k"], ["y"], doc)
    x = b.op("Sub", b.op("Cast", "x", to=DOUBLE), number(b, "x_zero_point", DOUBLE))
    axes = b.constant(np.arange(2, 2 + spatial, dtype=np.int64))
    requantise(b, b.op("ReduceSum", x, axes, keepdims=1), 0)
    return b.build(opset)


def quant_norm(opset: int, trailing: int = USUAL_TRAILING) -> FunctionProto:
    """QuantNorm: uint8 codes, scaled and shifted by channel; `trailing` axes follow that of the channels."""
    doc = "y = clip(((x * m + b) >> k) + zero, low, high), m, b and k by channel"
    b = FunctionBuilder(f"QuantNorm{trailing_suffix(trailing)}", ["x", "m", "b", "k"], ["y"], doc)
    requantise(b, b.op("Cast", "x", to=DOUBLE), trailing)
    return b.build(opset)


def lookup(opset: int) -> FunctionProto:
    """Lookup: uint8 codes through a table of 256."""
    b = FunctionBuilder("Lookup", ["x", "table"], ["y"], "y = table[x]")
    b.op("Gather", "table", b.op("Cast", "x", to=TensorProto.INT32), out="y")
    return b.build(opset)
