"""FP8 arithmetic in numpy: the oracle of its functions, by the conversions of `ml_dtypes`."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_weights import Rows, nibbles

F32 = NDArray[np.float32]
_LARGEST = np.float32(448)


def cast_float8(x: F32) -> F32:
    """float8_e4m3fn numbers nearest to x, ties to even; `ml_dtypes` gives NaN beyond 464, here it saturates."""
    held = np.clip(x, -_LARGEST, _LARGEST)
    return np.asarray(held.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def rounded_float8(x: NDArray[Any], scale: NDArray[Any]) -> F32:
    """Scale * cast8(x / scale); both products with a power of two are exact."""
    unit = np.float32(scale)
    with np.errstate(over="ignore"):  # what overflows saturates
        return np.asarray(cast_float8((x / unit).astype(np.float32)) * unit)


def dual_precision_weights(call: Call, stored: Sequence[NDArray[Any]]) -> F32:
    """The float32 weights of DualPrecisionWeights, in the shape that the operator reads.

    Args:
        call: with its attributes.
        stored: packed codes, group scales, first scale.
    """
    codes, scales, first = stored
    shape = tuple(call.attributes["weight_shape"])
    flat = nibbles(codes.reshape(-1), int(np.prod(shape))).astype(np.int8)
    integers = np.where(flat > 7, flat - 16, flat).reshape(shape[0], -1).astype(np.float32)
    size = int(call.attributes["group_size"][0])
    spread = np.repeat(scales.astype(np.float32), size, axis=1)[:, : integers.shape[1]]
    products = integers * spread
    real = (cast_float8(products) if call.eighths else products) * np.float32(first)
    return np.asarray(real.T if call.axis == 1 else real.reshape(shape))


def eighth_rows(call: Call, stored: Sequence[NDArray[Any]]) -> Rows:
    """The rows that a layer on integers makes of int4 codes that are read as FP8; of blocks codes times scales.

    Args:
        call: with its attributes.
        stored: packed codes, group scales, steps except for blocks, first scale.
    """
    codes, scales, *steps, first = stored
    shape = tuple(call.attributes["weight_shape"])
    flat = nibbles(codes.reshape(-1), int(np.prod(shape))).astype(np.int8)
    integers = np.where(flat > 7, flat - 16, flat).reshape(shape[0], -1).astype(np.float32)
    size = int(call.attributes["group_size"][0])
    products = integers * np.repeat(scales.astype(np.float32), size, axis=1)[:, : integers.shape[1]]
    if not steps:
        return Rows(products, np.full(1, np.float32(first)))
    step = steps[0].astype(np.float32)
    w8 = np.clip(np.rint(cast_float8(products) / step[:, None]), -128, 127).astype(np.int8)
    return Rows(w8, step * np.float32(first))


def float8_weights(call: Call, stored: Sequence[NDArray[Any]]) -> F32:
    """The float32 weights of Float8Weights, in the shape that the operator reads.

    Args:
        call: with its attributes.
        stored: codes, first scales.
    """
    codes, first = stored
    real = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * first.astype(np.float32)
    return np.asarray(real.T if call.axis == 1 else real.reshape(tuple(call.attributes["weight_shape"])))
