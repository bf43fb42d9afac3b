"""Integer layers in numpy, exactly: the oracle of QuantConv, QuantGemm, QuantMatMul and DynamicQuantMatMul.

acc = sum w8 * (x - x_zp) + bias, an exact integer; then y = clip(rne(f32(acc) * m) + y_zp) with
m = f32(f32(x_s * w_s) / y_s), or y = f32(acc) * f32(x_s * w_s). The order of the float32 operations is
that of ONNX Runtime's QLinearConv, QGemm and QLinearMatMul, found by trying all. [architecture 3.4, 3.5]

Every kernel computes the output positions that it is asked for: all of them, or a sample.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir import block_matmul
from lpcompile.ir.conv_geometry import ConvGeometry
from lpcompile.plan import CONCAT_IN, SEPARATE
from lpcompile.quant.concat_path import ConcatNumbers, hidden_codes
from lpcompile.quant.side_numbers import SideNumbers, side_floats
from lpcompile.runtime.reference_block import block_outputs
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_weights import Rows
from lpcompile.runtime.sampling import chosen

Ints = NDArray[np.integer]
_EXACT_IN_FLOAT32 = 1 << 24
# Small products stay on this thread: where cores are shared, waiting for the helpers of BLAS costs more than the sums.
_ONE_THREAD_PRODUCTS = 1 << 18
_SAMPLE_PRODUCTS = 1 << 25
_LARGEST_UINT8 = np.float32(255)


def exact_matmul(x: Ints, w: Ints) -> NDArray[np.float64]:
    """Exact x @ w.T over stacks: (..., P, K) and (..., C, K), |x| <= 255, |w| <= 128 -> (..., P, C).

    float32 products are exact while the sum of magnitudes stays below 2^24, so K is cut where it might not.
    """
    inputs, positions, channels = x.shape[-1], x.shape[-2], w.shape[-2]
    step = max(_EXACT_IN_FLOAT32 // (_magnitude(x) * _magnitude(w)), 1)
    rows = channels
    if positions * channels * inputs <= _SAMPLE_PRODUCTS:
        rows = max(_ONE_THREAD_PRODUCTS // max(positions * min(step, inputs), 1), 1)
    total = np.zeros((*x.shape[:-1], channels), np.float64)
    for start in range(0, inputs, step):
        part = slice(start, start + step)
        a = x[..., part].astype(np.float32)
        for first in range(0, channels, rows):
            some = slice(first, first + rows)
            total[..., some] += a @ w[..., some, part].astype(np.float32).swapaxes(-1, -2)
    return total


def _magnitude(x: Ints) -> int:
    return max(int(x.max(initial=0)), -int(x.min(initial=0)), 1)


def accumulate(
    call: Call,
    rows: Rows,
    x: NDArray[Any],
    zero_point: int,
    limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[np.float64], tuple[Any, ...], tuple[int, ...]]:
    """Accumulators of some output positions.

    Args:
        call: of the layer.
        rows: its weights.
        x: uint8 codes.
        zero_point: of x.
        limit: at most so many positions, drawn by `rng`; None for all.
        rng: draws.

    Returns:
        (P, C) accumulators without bias; the index that finds them in the output; the output's shape.
    """
    if call.family.endswith("Conv"):
        return _accumulate_conv(call, rows, x, zero_point, limit, rng)
    shape = (*x.shape[:-1], len(rows.values))
    flat = x.reshape(-1, x.shape[-1])
    at = chosen(len(flat), limit, rng)
    acc = exact_matmul(flat[at].astype(np.int16) - np.int16(zero_point), rows.values)
    return acc, np.unravel_index(at, shape[:-1]) if len(shape) > 1 else (None,), shape


def _accumulate_conv(
    call: Call,
    rows: Rows,
    x: NDArray[Any],
    zero_point: int,
    limit: int | None,
    rng: np.random.Generator | None,
) -> tuple[NDArray[np.float64], tuple[Any, ...], tuple[int, ...]]:
    sizes, kernel = x.shape[2:], call.attributes["weight_shape"][2:]
    g = int(call.attributes.get("group", 1))
    geometry = ConvGeometry.of(call.attributes, kernel, sizes)
    at = chosen(x.shape[0] * prod(geometry.out), limit, rng)
    image, position = np.divmod(at, prod(geometry.out))
    flat, valid, _ = geometry.taps(position, sizes)
    taken = x.reshape(*x.shape[:2], -1)[image[:, None], :, flat]  # (P, T, C_in)
    centred = np.where(valid[..., None], taken.astype(np.int16) - np.int16(zero_point), np.int16(0))
    count, taps, channels = centred.shape
    patches = centred.transpose(2, 0, 1).reshape(g, channels // g, count, taps).transpose(0, 2, 1, 3)
    w = rows.values.reshape(g, len(rows.values) // g, -1)
    acc = exact_matmul(patches.reshape(g, count, -1), w)  # (g, P, C_out / g)
    index = (image, slice(None), *np.unravel_index(position, geometry.out))
    shape = (x.shape[0], len(rows.values), *geometry.out)
    return acc.transpose(1, 0, 2).reshape(count, -1), index, shape


def requantize(
    acc: NDArray[np.float64], multiplier: NDArray[np.float32], zero_point: int, code_max: int
) -> NDArray[np.uint8]:
    """clip(rne(f32(acc) * m) + zp, 0, code_max); saturation to uint8 comes first, as in the body."""
    scaled = np.rint(acc.astype(np.float32) * multiplier).astype(np.float64) + zero_point
    return np.asarray(np.minimum(np.clip(scaled, 0, 255).astype(np.uint8), np.uint8(code_max)))


def quantize_dynamically(x: NDArray[np.float32]) -> tuple[NDArray[np.uint8], np.float32, int]:
    """DynamicQuantizeLinear: the range of x, widened to hold 0, in 255 steps; codes, scale, zero point."""
    low, high = np.float32(x.min(initial=0)), np.float32(x.max(initial=0))
    if high == low:
        return np.zeros(x.shape, np.uint8), np.float32(1), 0
    scale = np.float32((high - low) / _LARGEST_UINT8)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


def layer_outputs(
    call: Call,
    rows: Rows,
    inputs: Sequence[NDArray[Any]],
    limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[Any], tuple[Any, ...], tuple[int, ...]]:
    """Some output positions of a layer with integer arithmetic.

    Args:
        call: of the layer.
        rows: its weights, decoded.
        inputs: of the call.
        limit: at most so many positions, drawn by `rng`; None for all.
        rng: draws.

    Returns:
        (P, C) values, uint8 or float32; the index that finds them in the output; the output's shape.
    """
    if call.family == block_matmul.FAMILY:
        return block_outputs(rows, inputs[0], limit, rng)
    if call.family == "DynamicQuantMatMul":
        x, x_scale, x_zero = quantize_dynamically(inputs[0])
    else:
        x, x_scale, x_zero = inputs[0], np.float32(inputs[1]), int(inputs[2])
    acc, at, shape = accumulate(call, rows, x, x_zero, limit, rng)
    path = inputs[-call.path_inputs :] if call.path else []
    if call.path == CONCAT_IN:
        a, b, m = path
        hidden = hidden_codes(ConcatNumbers(a.T, b.T, m), x[at].astype(np.int64) - x_zero)
        acc = acc + (hidden - x_zero) @ b.astype(np.float64)
    if call.has_bias:
        acc = acc + inputs[-1 - len(path)]
    unit = x_scale * rows.scale
    if call.float_out:
        y = np.multiply(acc.astype(np.float32), unit, dtype=np.float32)
        if call.path == SEPARATE:
            a, b, m, scale, high = path
            centred = x[at].astype(np.int64) - x_zero
            y = y + side_floats(SideNumbers(a.T, b.T, m, scale, high), centred, x_scale)
        return y, at, shape
    y_scale, y_zero = inputs[3 + call.weight_inputs :][:2]
    return requantize(acc, unit / np.float32(y_scale), int(y_zero), call.code_max), at, shape
