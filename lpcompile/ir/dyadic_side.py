"""A side path beside a layer of a reference graph: what it adds to the sums, in float operators that are exact.

The integers are those of `quant.side_integers`: a8 times the codes is a float32 sum like the layer's own, b8 times the
16-bit numbers between stays below 2^24, both requantisations run in float64.
"""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from lpcompile.ir.function import FunctionBuilder, integer

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
SIDE_ARRAYS = (
    "side_a",
    "side_b",
    "side_m",
    "side_offset",
    "side_k",
    "side_added_m",
    "side_added_offset",
    "side_added_k",
)
SIDE_HIGH = "side_high"  # attribute: H


def side_sum(
    b: FunctionBuilder,
    first: Callable[[str], str],
    second: Callable[[str, str], str],
    trailing: int,
) -> str:
    """The float64 integers that a path adds.

    Args:
        b: of a function with the inputs SIDE_ARRAYS and the attribute SIDE_HIGH.
        first: the layer's product of its input with weights, as float64 integers.
        second: the product of float32 (N, r, ...) or (..., r) with the second factor.
        trailing: axes after that of the channels.
    """
    high = b.op("Cast", b.op("Constant", value_int=integer(SIDE_HIGH)), to=DOUBLE)
    hidden = _shifted(b, first("side_a"), "side", trailing)
    hidden = b.op("Cast", b.op("Clip", hidden, b.op("Neg", high), high), to=FLOAT)
    sums = second(hidden, b.op("Cast", "side_b", to=FLOAT))
    return _shifted(b, b.op("Cast", sums, to=DOUBLE), "side_added", 0)


def _shifted(b: FunctionBuilder, sums: str, role: str, trailing: int) -> str:
    """floor((sums * m + offset) * 2^-k), float64."""
    one = b.constant(np.array(1, np.uint64))
    power = b.op("BitShift", one, b.op("Cast", f"{role}_k", to=TensorProto.UINT64), direction="LEFT")
    power = b.op("Cast", power, to=DOUBLE)
    scale, shift = (b.op("Div", b.op("Cast", f"{role}_{n}", to=DOUBLE), power) for n in ("m", "offset"))
    if trailing:
        column = b.constant(np.array([-1, *[1] * trailing], np.int64))
        scale, shift = (b.op("Reshape", v, column) for v in (scale, shift))
    return b.op("Floor", b.op("Add", b.op("Mul", sums, scale), shift))
