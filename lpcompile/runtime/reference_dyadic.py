"""Every `dyadic` operator in numpy, with 64-bit integers: the oracle of reference graphs.

ONNX Runtime runs the float bodies of `ir.dyadic`; these are the integers that they must equal, bit for bit.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.conv_geometry import ConvGeometry
from lpcompile.ir.dyadic_side import SIDE_ARRAYS, SIDE_HIGH
from lpcompile.quant.dyadic import Requant, requantised
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_layers import accumulate
from lpcompile.runtime.reference_weights import Rows

I64 = NDArray[np.int64]


def dyadic_layer_outputs(
    call: Call,
    rows: Rows,
    inputs: Sequence[NDArray[Any]],
    limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[Any], tuple[Any, ...], tuple[int, ...]]:
    """Some output positions of a Dyadic or Accumulate layer; arguments and result as `layer_outputs`."""
    acc, at, shape = accumulate(call, rows, inputs[0], _zero(call), limit, rng)
    whole = acc.astype(np.int64)
    if call.side:
        end = len(inputs) - (0 if call.family.startswith("Accumulate") else 3)
        whole = whole + _side(call, inputs[0], inputs[end - len(SIDE_ARRAYS) : end], at)
    if call.family.startswith("Accumulate"):
        return whole.astype(np.int32), at, shape
    return requantised(whole, _requant(call, inputs[-3:])).astype(np.uint8), at, shape


def dyadic_elementwise_outputs(call: Call, inputs: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """The whole output of a call without weights."""
    if call.family == "Lookup":
        return np.asarray(np.take(inputs[1], inputs[0]))
    a = call.attributes
    x = inputs[0].astype(np.int64)
    if call.family in ("DyadicAdd", "DyadicMul"):
        other = inputs[1].astype(np.int64)
        if call.family == "DyadicAdd":
            acc, m = x * a["m_a"] + other * a["m_b"], 1
        else:
            acc, m = (x - a["a_zero_point"]) * (other - a["b_zero_point"]), a["m"]
        numbers = (np.array([v], np.int64) for v in (m, a["c"], a["k"]))
        return _codes(acc, _requant(call, list(numbers)))
    r = _requant(call, inputs[1:4])
    if call.family == "QuantNorm":
        return _codes(x, r, call.trailing)
    x = x - a["x_zero_point"]
    if call.family == "DyadicGlobalAveragePool":
        return _codes(x.sum(tuple(range(2, x.ndim)), keepdims=True), r)
    geometry = ConvGeometry.of(a, a["kernel_shape"], x.shape[2:])
    flat, valid, _ = geometry.taps(np.arange(prod(geometry.out)), x.shape[2:])
    sums = np.where(valid, x.reshape(*x.shape[:2], -1)[..., flat], 0).sum(-1)
    return _codes(sums.reshape(*x.shape[:2], *geometry.out), r)


def _side(call: Call, x: NDArray[Any], arrays: Sequence[NDArray[Any]], at: tuple[Any, ...]) -> I64:
    """What a side path adds to the sums at some positions, (P, C)."""
    a, b = arrays[:2]
    convolves = call.family.endswith("Conv")
    rows = (a.reshape(len(a), -1), b.reshape(b.shape[:2])) if convolves else (a.T, b.T)
    sums, every, shape = accumulate(call, Rows(rows[0], np.ones(1, np.float32)), x, _zero(call))
    whole = np.empty(shape, np.int64)
    whole[every] = sums
    high = int(call.attributes[SIDE_HIGH])
    m, offset, k, *others = (v.astype(np.int64) for v in arrays[2:])
    hidden = requantised(whole[at], Requant(m, offset, k, 0, -high, high))
    m, offset, k = others
    limits = np.iinfo(np.int32)
    added = Requant(m, offset, k, 0, int(limits.min), int(limits.max))
    return requantised(hidden @ rows[1].T.astype(np.int64), added)


def _zero(call: Call) -> int:
    return int(call.attributes["x_zero_point"])


def _requant(call: Call, numbers: Sequence[NDArray[Any]]) -> Requant:
    m, b, k = (v.astype(np.int64) for v in numbers)
    return Requant(m, b, k, *(int(call.attributes[name]) for name in ("zero", "low", "high")))


def _codes(acc: I64, r: Requant, trailing: int = 0) -> NDArray[np.uint8]:
    return requantised(acc, r, trailing).astype(np.uint8)
