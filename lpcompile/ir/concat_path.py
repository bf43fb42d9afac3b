"""A side path that is concatenated to its layer: the numbers of `quant.concat_path`.

The factors are inputs of the call, so that others of any rank can take their place; the Concat of weights folds when
the model is loaded.
"""

import numpy as np
from onnx import TensorProto

from lpcompile.ir.function import FunctionBuilder
from lpcompile.quant.concat_path import HIDDEN_ZERO

CONCAT_INPUTS = ("path_a", "path_b", "path_m")
CONCAT_LABEL = "_concat"  # what names of functions say of it


def concatenated(b: FunctionBuilder, x: str, w8: str) -> tuple[str, str]:
    """Codes with those of h beside them, and the weights of both.

    Args:
        b: of a function with x_zero_point and the inputs CONCAT_INPUTS.
        x: uint8 (..., K).
        w8: int8 (K, N).
    """
    a, second, m = CONCAT_INPUTS
    one, zero = b.constant(np.array(1, np.float32)), b.constant(np.array(HIDDEN_ZERO, np.uint8))
    zeros = b.op("Cast", b.op("Mul", m, b.constant(np.array(0, np.float32))), to=TensorProto.INT8)
    hidden = b.op("QLinearMatMul", x, one, "x_zero_point", a, m, zeros, one, zero)
    return b.op("Concat", x, hidden, axis=-1), b.op("Concat", w8, second, axis=0)
