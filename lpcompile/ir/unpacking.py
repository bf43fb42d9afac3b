"""Shared functions that turn stored weights and scales into int8 and float32: one body a file, called by every layer.

All constant, folded when the model is loaded. Only operators that every ONNX Runtime since opset 13 has for these types
are used: no INT4 Cast (missing before 1.21), no BitwiseAnd (opset 18). [architecture 3.1 and 3.2]

==========  ===========================================================================================
Scale       ufloat8_e4m4 codes c and a unit u: u * (16 + (c & 15)) * 2^(c >> 4), float32, exact but for u
LinearScale                         u * c
HalfScale                           c the upper half of a float32: u * (128 + (c & 127)) * 2^((c >> 7) - 134)
Weights     codes of one table
RepairedWeights, MergedWeights     with a low-rank side path (low_rank.py)
GroupWeights, RowWeights            a table for each multiplier, or for each row; no byte has codes of two tables
GroupWeightsOdd, RowWeightsOdd      the same code by code, where a byte may, or multipliers leave half a byte over
Weights<N>, GroupWeights<N>(Odd)    codes of N bits, not 4, out of words of whole codes
==========  ===========================================================================================
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.formats.packing import codes_of_word, word_bytes
from lpcompile.ir.function import DOMAIN, DOMAIN_VERSION, FunctionBuilder, ints
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.low_rank import merged_weights_body, repaired_weights_body

INT8, INT32, FLOAT = TensorProto.INT8, TensorProto.INT32, TensorProto.FLOAT
LEVELS = 16  # that four bits tell apart
TOGETHER = {2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 2}  # codes that are looked up at once


def add_function(graph: LpGraph, function: FunctionProto) -> None:
    """Add a function and, before it, the shared ones that it calls."""
    for node in function.node:
        if node.domain == DOMAIN and (DOMAIN, node.op_type) not in graph.functions:
            add_function(graph, BODIES[node.op_type](graph.opset))
    graph.functions[(DOMAIN, function.name)] = function
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION


def whole(b: FunctionBuilder, *values: int) -> str:
    """An int64 list."""
    return b.constant(np.array(values, np.int64))


def number(b: FunctionBuilder, value: int) -> str:
    """An int32 scalar."""
    return b.constant(np.array(value, np.int32))


def _scale(opset: int) -> FunctionProto:
    b = FunctionBuilder("Scale", ["codes", "unit"], ["y"], "y = unit * (16 + (c & 15)) * 2^(c >> 4)")
    c = b.op("Cast", "codes", to=INT32)
    mantissa = b.op("Cast", b.op("Add", b.op("Mod", c, number(b, 16)), number(b, 16)), to=FLOAT)
    powers = b.constant(np.exp2(np.arange(LEVELS)).astype(np.float32))
    power = b.op("Gather", powers, b.op("Div", c, number(b, 16)))
    b.op("Mul", b.op("Mul", mantissa, power), "unit", out="y")
    return b.build(opset)


def _linear_scale(opset: int) -> FunctionProto:
    b = FunctionBuilder("LinearScale", ["codes", "unit"], ["y"], "y = unit * c")
    b.op("Mul", b.op("Cast", "codes", to=FLOAT), "unit", out="y")
    return b.build(opset)


def _half_scale(opset: int) -> FunctionProto:
    b = FunctionBuilder(
        "HalfScale", ["codes", "unit"], ["y"], "y = unit * (128 + (c & 127)) * 2^((c >> 7) - 134)"
    )
    c = b.op("Cast", "codes", to=INT32)
    mantissa = b.op("Cast", b.op("Add", b.op("Mod", c, number(b, 128)), number(b, 128)), to=FLOAT)
    powers = b.constant(np.exp2(np.arange(256) - 134.0).astype(np.float32))
    power = b.op("Gather", powers, b.op("Div", c, number(b, 128)))
    b.op("Mul", b.op("Mul", mantissa, power), "unit", out="y")
    return b.build(opset)


def nibbles(b: FunctionBuilder, packed: str) -> str:
    """Codes of bytes of two, low one first, int32, flat."""
    x, column = b.op("Cast", packed, to=INT32), whole(b, -1, 1)
    halves = (b.op("Reshape", b.op(op, x, number(b, 16)), column) for op in ("Mod", "Div"))
    return b.op("Reshape", b.op("Concat", *halves, axis=1), whole(b, -1))


def taken_apart(b: FunctionBuilder, packed: str, bits: int, together: int = 1) -> str:
    """Codes of `bits` bits, int32, with those that fill the last word; `together` of them as one number.

    Flat, or of the shape that bytes have which hold one number each.
    """
    size, held, width = word_bytes(bits), codes_of_word(bits) // together, bits * together
    if held == 1:
        return b.op("Cast", packed, to=INT32)
    if bits == 4:
        return nibbles(b, packed)
    kind = np.int32 if 8 * size < 32 else np.int64
    x = b.op("Cast", packed, to=INT32 if kind is np.int32 else TensorProto.INT64)
    places = b.constant(2 ** (8 * np.arange(size, dtype=kind)).reshape(size, 1))
    # ReduceSum would be inexact above 2^53
    words = b.op("MatMul", b.op("Reshape", x, whole(b, -1, size)), places)
    shifted = b.op("Div", words, b.constant(2 ** (width * np.arange(held, dtype=kind)).reshape(1, held)))
    numbers = b.op("Mod", shifted, b.constant(np.array(2**width, kind)))
    return b.op("Reshape", numbers if kind is np.int32 else b.op("Cast", numbers, to=INT32), whole(b, -1))


def _pairs(b: FunctionBuilder, levels: str, count: int = LEVELS, width: int = 1) -> str:
    """Of (R, count * width) int8 levels, (R * count^2, 2 * width): those of two codes a row."""
    low = b.op("Reshape", levels, whole(b, -1, 1, count, width))
    high = b.op("Reshape", levels, whole(b, -1, count, 1, width))
    low = b.op("Expand", low, whole(b, 1, count, 1, 1))
    high = b.op("Expand", high, whole(b, 1, 1, count, 1))
    return b.op("Reshape", b.op("Concat", low, high, axis=3), whole(b, -1, 2 * width))


def _tuples(b: FunctionBuilder, levels: str, bits: int) -> str:
    """Of (R, 2^bits) int8 levels, (R * 2^(bits * t), t): levels of the t = TOGETHER[bits] codes of a number."""
    pairs = _pairs(b, levels, 2**bits)
    return pairs if TOGETHER[bits] == 2 else _pairs(b, pairs, 4**bits, 2)


def _group_levels(b: FunctionBuilder) -> str:
    """(16, 16) int8 levels by multiplier, of (17,) float32 levels n and d: T[m] = round_half_even(m * n / d)."""
    m = b.op("Cast", b.constant(np.arange(LEVELS, dtype=np.int64).reshape(LEVELS, 1)), to=FLOAT)
    n, d = (b.op("Gather", "levels", i) for i in (whole(b, *range(LEVELS)), whole(b, LEVELS)))
    return b.op("Cast", b.op("Round", b.op("Div", b.op("Mul", m, n), d)), to=INT8)


def _weights(opset: int, bits: int = 4) -> FunctionProto:
    b = _start("Weights" if bits == 4 else f"Weights{bits}", "levels", "y = levels[code]")
    found = b.op("Gather", _tuples(b, "levels", bits), taken_apart(b, "codes", bits, TOGETHER[bits]))
    shape = b.attribute("weight_shape")
    flat = b.op("Reshape", found, whole(b, -1))
    used = b.op("Slice", flat, whole(b, 0), b.op("ReduceProd", shape))  # the last word may hold more
    b.op("Reshape", used, shape, out="y")
    return b.build(opset)


def _group_weights(opset: int) -> FunctionProto:
    b = _start("GroupWeights", "multipliers", "levels", "y = T[multiplier of the group][code]")
    size = b.op("Div", b.attribute("group_size"), whole(b, 2))
    rows = spread(b, "codes", nibbles(b, "multipliers"), size)
    return _looked_up(b, _group_levels(b), rows, opset)


def _row_weights(opset: int) -> FunctionProto:
    b = _start("RowWeights", "tables", "y = tables[row][code]")
    return _looked_up(b, "tables", _rows(b, "codes"), opset)


def _looked_up(b: FunctionBuilder, tables: str, rows: str, opset: int) -> FunctionProto:
    """Levels of (C_out, K / 2) bytes; `rows` says which table is that of a byte."""
    index = b.op("Add", b.op("Cast", "codes", to=INT32), b.op("Mul", rows, number(b, 256)))
    b.op("Reshape", b.op("Gather", _pairs(b, tables), index), b.attribute("weight_shape"), out="y")
    return b.build(opset)


def _group_weights_odd(opset: int, bits: int = 4) -> FunctionProto:
    name = "GroupWeightsOdd" if bits == 4 else f"GroupWeights{bits}Odd"
    b = _start(name, "multipliers", "levels", "y = T[multiplier of the group][code]")
    codes, flat = _code_rows(b, bits), nibbles(b, "multipliers")
    first = b.op("Gather", b.attribute("weight_shape"), whole(b, 0))
    count = b.op(
        "Mul", b.op("Div", b.op("Shape", flat), first), first
    )  # of one row, a group that is cut off again
    rows = spread(b, codes, b.op("Slice", flat, whole(b, 0), count), b.attribute("group_size"))
    return _looked_up_singly(b, _group_levels(b), codes, rows, opset)


def _row_weights_odd(opset: int) -> FunctionProto:
    b = _start("RowWeightsOdd", "tables", "y = tables[row][code]")
    codes = _code_rows(b)
    return _looked_up_singly(b, "tables", codes, _rows(b, codes), opset)


def _dense_group_weights(opset: int, bits: int) -> FunctionProto:
    b = _start(f"GroupWeights{bits}", "multipliers", "levels", "y = T[multiplier of the group][code]")
    together = TOGETHER[bits]
    size = b.op("Div", b.attribute("group_size"), whole(b, together))
    codes = _code_rows(b, bits, together)
    rows = spread(b, codes, nibbles(b, "multipliers"), size)
    index = b.op("Add", codes, b.op("Mul", rows, number(b, 2 ** (bits * together))))
    first = b.op("Slice", _group_levels(b), whole(b, 0), whole(b, 2**bits), whole(b, 1))
    found = b.op("Gather", _tuples(b, first, bits), index)
    b.op("Reshape", found, b.attribute("weight_shape"), out="y")
    return b.build(opset)


def _code_rows(b: FunctionBuilder, bits: int = 4, together: int = 1) -> str:
    """Codes as (C_out, K / together), without those that fill the last word."""
    shape = b.attribute("weight_shape")
    count = b.op("ReduceProd", shape)
    if together > 1:
        count = b.op("Div", count, whole(b, together))
    used = b.op("Slice", taken_apart(b, "codes", bits, together), whole(b, 0), count)
    first = b.op("Gather", shape, whole(b, 0))
    return b.op("Reshape", used, b.op("Concat", first, whole(b, -1), axis=0))


def _looked_up_singly(b: FunctionBuilder, tables: str, codes: str, rows: str, opset: int) -> FunctionProto:
    index = b.op("Add", codes, b.op("Mul", rows, number(b, LEVELS)))
    levels = b.op("Gather", b.op("Reshape", tables, whole(b, -1)), index)
    b.op("Reshape", levels, b.attribute("weight_shape"), out="y")
    return b.build(opset)


def spread(b: FunctionBuilder, codes: str, multipliers: str, size: str) -> str:
    """(C_out, n) multipliers of codes or bytes (C_out, n), `size` to a group; the last group of a row may be short."""
    shape = b.op("Shape", codes)
    rows, length = (b.op("Gather", shape, whole(b, i)) for i in (0, 1))
    column = b.op("Reshape", multipliers, b.op("Concat", rows, whole(b, -1, 1), axis=0))
    spread = b.op("Expand", column, b.op("Concat", whole(b, 1, 1), size, axis=0))
    return b.op("Slice", b.op("Reshape", spread, whole(b, 0, -1)), whole(b, 0), length, whole(b, 1))


def _rows(b: FunctionBuilder, codes: str) -> str:
    """(C_out, 1) numbers of rows."""
    count = b.op("Gather", b.op("Shape", codes), whole(b, 0))
    ones = b.op("Expand", number(b, 1), count)
    return b.op("Reshape", b.op("CumSum", ones, number(b, 0), exclusive=1), whole(b, -1, 1))


def _start(name: str, *inputs_and_doc: str) -> FunctionBuilder:
    *inputs, doc = inputs_and_doc
    return FunctionBuilder(name, ["codes", *inputs], ["y"], doc)


SCALE_BODIES = {
    "s8": "Scale",
    "u8": "LinearScale",
    "b16": "HalfScale",
}  # by part of a name
BODIES: dict[str, Callable[[int], FunctionProto]] = {
    "Scale": _scale,
    "LinearScale": _linear_scale,
    "HalfScale": _half_scale,
    "Weights": _weights,
    "GroupWeights": _group_weights,
    "RowWeights": _row_weights,
    "GroupWeightsOdd": _group_weights_odd,
    "RowWeightsOdd": _row_weights_odd,
    "RepairedWeights": repaired_weights_body,
    "MergedWeights": merged_weights_body,
    **{f"Weights{n}": partial(_weights, bits=n) for n in (2, 3, 5, 6, 7)},
    **{f"GroupWeights{n}": partial(_dense_group_weights, bits=n) for n in (2, 3)},
    **{f"GroupWeights{n}Odd": partial(_group_weights_odd, bits=n) for n in (2, 3)},
}


def unpacked(b: FunctionBuilder, function: str, *inputs: str, grouped: bool) -> str:
    """Call one of the functions above that gives weights, with the attributes of the layer."""
    attributes = {"weight_shape": ints("weight_shape")}
    if grouped:
        attributes["group_size"] = ints("group_size")
    return b.call(function, *inputs, **attributes)
