"""Elementwise work on uint8 in numpy: dequantise, one float32 operator, quantise.

ONNX Runtime's QLinearAdd and its kin round in their own way at ties, so they agree within one step.
[architecture 3]
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.conv_geometry import ConvGeometry
from lpcompile.runtime.reference_call import Call

F32 = NDArray[np.float32]
_ONE, _HALF, _SIXTH = np.float32(1), np.float32(0.5), np.float32(1 / 6)


def _hard_sigmoid(x: F32, alpha: float, beta: float) -> F32:
    return np.asarray(np.clip(np.float32(alpha) * x + np.float32(beta), np.float32(0), _ONE))


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):  # what is far below 0 gives 1 / inf
        return np.asarray(_ONE / (_ONE + np.exp(-x)))


UNARY: dict[str, Callable[[F32, dict[str, Any]], F32]] = {
    "LeakyRelu": lambda x, a: np.where(x < 0, np.float32(a.get("alpha", 0.01)) * x, x),
    "Sigmoid": lambda x, a: _sigmoid(x),
    "HardSwish": lambda x, a: x * _hard_sigmoid(x, float(_SIXTH), float(_HALF)),
    "HardSigmoid": lambda x, a: _hard_sigmoid(x, a.get("alpha", 0.2), a.get("beta", 0.5)),
    "Tanh": lambda x, a: np.tanh(x),
    "Elu": lambda x, a: np.where(x < 0, np.float32(a.get("alpha", 1.0)) * np.expm1(np.minimum(x, 0)), x),
}


def dequantize(x: NDArray[np.uint8], scale: NDArray[Any], zero_point: NDArray[Any]) -> F32:
    """(x - zero_point) * scale, one float32 product."""
    return np.asarray((x.astype(np.int32) - np.int32(zero_point)).astype(np.float32) * np.float32(scale))


def quantize(v: F32, scale: NDArray[Any], zero_point: NDArray[Any], code_max: int) -> NDArray[np.uint8]:
    """clip(rne(v / scale) + zero_point), held to code_max."""
    codes = np.rint(v / np.float32(scale)) + np.float32(zero_point)
    return np.asarray(np.minimum(np.clip(codes, 0, 255).astype(np.uint8), np.uint8(code_max)))


def elementwise_outputs(call: Call, inputs: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """The whole output of an elementwise call."""
    y_scale, y_zero = inputs[-2:]
    if call.family in UNARY:  # 256 numbers in, so a table says all
        codes = np.arange(256, dtype=np.uint8)
        values = UNARY[call.family](dequantize(codes, *inputs[1:3]), call.attributes)
        return np.take(quantize(values, y_scale, y_zero, call.code_max), inputs[0])
    if call.family in ("Add", "Mul"):
        a, b = dequantize(*inputs[:3]), dequantize(*inputs[3:6])
        return quantize(a + b if call.family == "Add" else a * b, y_scale, y_zero, call.code_max)
    x, scale, zero = inputs[:3]
    mean = _mean_of_all(x, zero) if call.family == "GlobalAveragePool" else _mean_of_windows(call, x, zero)
    return quantize((mean * np.float64(scale)).astype(np.float32), y_scale, y_zero, call.code_max)


def _mean_of_all(x: NDArray[np.uint8], zero_point: NDArray[Any]) -> NDArray[np.float64]:
    axes = tuple(range(2, x.ndim))
    return np.asarray(x.mean(axes, np.float64, keepdims=True) - float(zero_point))


def _mean_of_windows(call: Call, x: NDArray[np.uint8], zero_point: NDArray[Any]) -> NDArray[np.float64]:
    """Means over windows; padding counts as zeros with count_include_pad, else not at all."""
    attributes, sizes = call.attributes, x.shape[2:]
    geometry = ConvGeometry.of(attributes, attributes["kernel_shape"], sizes)
    flat, valid, at = geometry.taps(np.arange(prod(geometry.out)), sizes)
    centred = x.reshape(*x.shape[:2], -1)[..., flat].astype(np.int64) - int(zero_point)
    counted = valid
    if attributes.get("count_include_pad", 0):
        pads = list(attributes.get("pads") or [0] * 2 * len(sizes))[len(sizes) :]
        ends = np.array([s + p for s, p in zip(sizes, pads, strict=True)]).reshape(-1, 1, 1)
        counted = np.all(at < ends, axis=0)  # what ceil_mode adds beyond the padding is not there
    total = np.where(valid, centred, 0).sum(-1)
    return np.asarray((total / counted.sum(-1)).reshape(*x.shape[:2], *geometry.out))
