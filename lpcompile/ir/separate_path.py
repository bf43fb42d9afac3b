"""A side path beside a layer that gives floats, in operators that are exact: the numbers of `quant.side_numbers`.

The factors are inputs of the call, so that other factors of any rank can take their place.
"""

import numpy as np
from onnx import TensorProto

from lpcompile.ir.function import FunctionBuilder

PATH_INPUTS = ("path_a", "path_b", "path_m", "path_scale", "path_high")
LABEL = "_path"  # what names of functions say of it


def with_path(b: FunctionBuilder, y: str, x: str = "x") -> str:
    """The outputs of the main path and what the side path adds to them.

    Args:
        b: of a function with x_scale, x_zero_point and the inputs PATH_INPUTS.
        y: float32 (..., C).
        x: uint8 (..., K).
    """
    x, zero, first, second = (
        b.op("Cast", name, to=TensorProto.FLOAT) for name in (x, "x_zero_point", *PATH_INPUTS[:2])
    )
    sums = b.op("MatMul", b.op("Sub", x, zero), first)
    hidden = b.op("Round", b.op("Mul", sums, "path_m"))
    low = b.op("Mul", "path_high", b.constant(np.array(-1, np.float32)))
    hidden = b.op("Max", b.op("Min", hidden, "path_high"), low)
    unit = b.op("Mul", "x_scale", "path_scale")
    # a Sum: ONNX Runtime makes a float Gemm of a MatMul and an Add, which then is no integer product any more
    return b.op("Sum", y, b.op("Mul", b.op("MatMul", hidden, second), unit))
