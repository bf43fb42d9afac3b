"""What accumulators of integer products hold: int32 sums of u8 x s8 products.

Bounds hold for any inputs: codes 0 to 255 less any zero point of that range, so a sum of w (x - z) lies within 255
times the larger of the positive and the negative weights of its row.
"""

import numpy as np

from lpcompile.formats.arrays import I8
from lpcompile.quant.qtensor import QuantizedTensor

LARGEST_CODE = 255
INT32_MAX = 2**31 - 1
BIAS_UNITS = 2.0**30  # |bias| stays below this many units of the accumulator


def fits_any_weights(inputs: int) -> bool:
    """Whether sums of so many products stay within int32 beside a bias, whatever the codes are."""
    return inputs * 128 * LARGEST_CODE + BIAS_UNITS <= INT32_MAX


def largest_sum(w8: I8) -> int:
    """The largest magnitude that a sum of products of a row may reach.

    Args:
        w8: (C, K) integers of a layer's weights.
    """
    positive = np.maximum(w8, 0).sum(axis=1, dtype=np.int64)
    negative = positive - w8.sum(axis=1, dtype=np.int64)
    return LARGEST_CODE * int(np.maximum(positive, negative).max(initial=0))


def int32_obstacle(tensor: QuantizedTensor) -> str:
    """Why the sums of a layer may leave int32; empty where its number of products, or its weights, prove otherwise."""
    inputs = tensor.shape[1]
    if fits_any_weights(inputs):
        return ""
    largest = largest_sum(tensor.int8_image()[0])
    if largest + BIAS_UNITS <= INT32_MAX:
        return ""
    return f"a sum of its {inputs} products may reach {largest}, which int32 does not hold beside a bias"
