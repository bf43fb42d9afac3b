"""Layers of a reference graph: integer sums, and their `dyadic` requantisation, in standard ops that are exact.

==========================================  =====================================================================
DyadicConv, DyadicGemm, DyadicMatMul        acc = sum w8 * (x - x_zero_point)
                                            y = clip(floor((acc * m + b) * 2^-k) + zero, low, high), uint8
AccumulateConv, ...Gemm, ...MatMul          acc as int32
==========================================  =====================================================================

The sum is a float32 one: its terms are integers, and the sum of their magnitudes stays below 2^24 for every channel,
so every order of adding gives the same.  Where it would not, weights are split into signed digits (`_d2`: two of
radix 16, `_d4`: four of radix 4) and the sums of the digits are put together in float64.  Padding is zero after
x_zero_point is taken off, which is padding with the zero point.

Requantisation runs in float64, exactly: |acc * m + b| + zero * 2^k < 2^52, and division by 2^k loses nothing.  The
Cast to uint8 truncates, which is `floor` for what was clipped to low >= 0. [architecture 3.2, 3.5]

`_side` in a name: a low-rank path adds to the sums before they are requantised (`dyadic_side`).

`_t<n>` in a name: n axes stand after that of the channels (2 where it is not said).
"""

import re
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.decode import Storage, weights_int8
from lpcompile.ir.domain import CONV_ATTRIBUTES, storage_attributes
from lpcompile.ir.dyadic_side import SIDE_ARRAYS, SIDE_HIGH, side_sum
from lpcompile.ir.function import FunctionBuilder, integer, ints
from lpcompile.quant.dyadic import RADIX

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
USUAL_TRAILING = 2


def trailing_suffix(trailing: int) -> str:
    """The part of a function's name that says how many axes follow that of the channels."""
    return "" if trailing == USUAL_TRAILING else f"_t{trailing}"


def trailing_axes(name: str) -> int:
    """How many axes follow that of the channels, by the name of a function."""
    found = re.search(r"_t(\d+)$", name)
    return USUAL_TRAILING if found is None else int(found[1])


def dyadic_layer(
    op: str,
    storage: Storage,
    opset: int,
    *,
    digits: int = 1,
    trailing: int = USUAL_TRAILING,
    accumulate: bool = False,
    side: bool = False,
) -> FunctionProto:
    """DyadicConv, DyadicGemm, DyadicMatMul, or with `accumulate` their int32 sums.

    Args:
        op: Conv, Gemm or MatMul; inputs uint8 (N, C, *spatial) or (..., K).
        storage: of the weights; their scales are inside `m`.
        opset: of the model.
        digits: that weights are split into (1, 2 or 4).
        trailing: spatial axes of a Conv.
        accumulate: give the sums.
        side: a side path adds to them; its first factor is split as the weights are.
    """
    label = replace(storage, side=side).label
    name = f"{'Accumulate' if accumulate else 'Dyadic'}{op}_{label}"
    name += ("" if digits == 1 else f"_d{digits}") + (trailing_suffix(trailing) if op == "Conv" else "")
    doc = "acc = sum(w8 * (x - x_zero_point))"
    if not accumulate:
        doc += "; y = clip(((acc * m + b) >> k) + zero, low, high)"
    stored = [*storage.integer_inputs, *storage.level_inputs, *(SIDE_ARRAYS if side else ())]
    inputs = ["x", *stored, *([] if accumulate else ["m", "b", "k"])]
    b = FunctionBuilder(name, inputs, ["y"], doc)
    b.declare("format", "granularity", *storage_attributes(storage), *([SIDE_HIGH] if side else []))
    x = b.op("Sub", b.op("Cast", "x", to=FLOAT), number(b, "x_zero_point", FLOAT))
    parts = _digits(b, b.op("Cast", weights_int8(b, storage), to=FLOAT), digits)
    sums = [_product(b, op, x, w) for w in parts]
    if accumulate and digits == 1 and not side:
        b.op("Cast", sums[0], to=TensorProto.INT32, out="y")
        return b.build(opset)
    acc = _put_together(b, sums, RADIX[digits])
    if side:

        def first(factor: str) -> str:
            parts = _digits(b, b.op("Cast", factor, to=FLOAT), digits)
            return _put_together(b, [_product(b, op, x, w) for w in parts], RADIX[digits])

        def second(hidden: str, factor: str) -> str:
            return b.op("Conv" if op == "Conv" else "MatMul", hidden, factor)

        acc = b.op("Add", acc, side_sum(b, first, second, trailing if op == "Conv" else 0))
    if accumulate:
        b.op("Cast", acc, to=TensorProto.INT32, out="y")
    else:
        requantise(b, acc, trailing if op == "Conv" else 0)
    return b.build(opset)


def number(b: FunctionBuilder, attribute: str, dtype: int) -> str:
    """An integer attribute of the function as a scalar of a float type."""
    return b.op("Cast", b.op("Constant", value_int=integer(attribute)), to=dtype)


def _product(b: FunctionBuilder, op: str, x: str, w: str) -> str:
    if op != "Conv":
        return b.op("MatMul", x, w)
    attributes: dict[str, Any] = {**{k: ints(k) for k in CONV_ATTRIBUTES}, "group": integer("group")}
    return b.op("Conv", x, w, **attributes)


def _digits(b: FunctionBuilder, w: str, digits: int) -> list[str]:
    """`quant.dyadic.split_digits` on constants, folded when the model is loaded."""
    found = []
    for _ in range(digits - 1):
        radix = b.constant(np.array(RADIX[digits], np.float32))
        higher = b.op("Round", b.op("Div", w, radix))
        found.append(b.op("Sub", w, b.op("Mul", higher, radix)))
        w = higher
    return [*found, w]


def _put_together(b: FunctionBuilder, sums: list[str], radix: int) -> str:
    total = b.op("Cast", sums[-1], to=DOUBLE)
    for part in reversed(sums[:-1]):
        higher = b.op("Mul", total, b.constant(np.array(radix, np.float64)))
        total = b.op("Add", higher, b.op("Cast", part, to=DOUBLE))
    return total


def requantise(b: FunctionBuilder, acc: str, trailing: int) -> None:
    """Fill `y` from float64 integers and the inputs m, b and k: `acc * (m / 2^k) + (b / 2^k + zero)`, clipped."""
    one = b.constant(np.array(1, np.uint64))
    power = b.op("BitShift", one, b.op("Cast", "k", to=TensorProto.UINT64), direction="LEFT")
    power = b.op("Cast", power, to=DOUBLE)
    scale = b.op("Div", b.op("Cast", "m", to=DOUBLE), power)
    shift = b.op("Div", b.op("Cast", "b", to=DOUBLE), power)
    shift = b.op("Add", shift, number(b, "zero", DOUBLE))
    if trailing:
        column = b.constant(np.array([-1, *[1] * trailing], np.int64))
        scale, shift = (b.op("Reshape", v, column) for v in (scale, shift))
    clip_to_codes(b, b.op("Add", b.op("Mul", acc, scale), shift))


def clip_to_codes(b: FunctionBuilder, value: str) -> None:
    """Fill `y`: float64 values, zero included, clipped to low .. high and truncated."""
    held = b.op("Clip", value, number(b, "low", DOUBLE), number(b, "high", DOUBLE))
    b.op("Cast", held, to=TensorProto.UINT8, out="y")
