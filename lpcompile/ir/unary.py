"""Operators of one activation as real functions: on 8-bit codes each of them is a table. [architecture 3.7].

Operands that are one constant number count as part of the function, so that `x / 6` and `min(x, 1)` are tables too.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.movement import bounds
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

F64 = NDArray[np.float64]
Real = Callable[[F64], F64]

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: F64) -> F64:
    return np.exp(-np.logaddexp(0.0, -x))


def _softplus(x: F64) -> F64:
    return np.logaddexp(0.0, x)


def _hard_sigmoid(x: F64, alpha: float, beta: float) -> F64:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _gelu(node: Node) -> Real:
    approximate = node.attrs.get("approximate", "none")
    if approximate in ("tanh", b"tanh"):
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _attr(node: Node, name: str, default: float) -> float:
    return float(node.attrs.get(name, default))


def _elu(node: Node) -> Real:
    alpha = _attr(node, "alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(x), x)


def _selu(node: Node) -> Real:
    alpha, gamma = _attr(node, "alpha", _SELU_ALPHA), _attr(node, "gamma", _SELU_GAMMA)
    return lambda x: gamma * np.where(x < 0, alpha * np.expm1(x), x)


def _celu(node: Node) -> Real:
    alpha = _attr(node, "alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(x / alpha), x)


def _leaky(node: Node) -> Real:
    alpha = _attr(node, "alpha", 0.01)
    return lambda x: np.where(x < 0, alpha * x, x)


def _hard(node: Node) -> Real:
    alpha, beta = _attr(node, "alpha", 0.2), _attr(node, "beta", 0.5)
    return lambda x: _hard_sigmoid(x, alpha, beta)


def _clamp(node: Node) -> Real | None:
    limits = bounds(node)
    return None if limits is None else lambda x: np.clip(x, *limits)


def _threshold(node: Node) -> Real:
    alpha = _attr(node, "alpha", 1.0)
    return lambda x: np.where(x > alpha, x, 0.0)


def _prelu(node: Node) -> Real | None:
    slope = _number(node, 1)
    return None if slope is None else lambda x: np.where(x < 0, slope * x, x)


_FUNCTIONS: dict[str, Callable[[Node], Real | None]] = {
    "Abs": lambda _: np.abs,
    "Ceil": lambda _: np.ceil,
    "Celu": _celu,
    "Clip": _clamp,
    "Cos": lambda _: np.cos,
    "Elu": _elu,
    "Erf": lambda _: _erf,
    "Exp": lambda _: np.exp,
    "Floor": lambda _: np.floor,
    "Gelu": _gelu,
    "HardSigmoid": _hard,
    "HardSwish": lambda _: lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "LeakyRelu": _leaky,
    "Log": lambda _: np.log,
    "Mish": lambda _: lambda x: x * np.tanh(_softplus(x)),
    "Neg": lambda _: np.negative,
    "PRelu": _prelu,
    "Reciprocal": lambda _: np.reciprocal,
    "Relu": _clamp,
    "Round": lambda _: np.rint,
    "Selu": _selu,
    "Sigmoid": lambda _: _sigmoid,
    "Sign": lambda _: np.sign,
    "Sin": lambda _: np.sin,
    "Softplus": lambda _: _softplus,
    "Softsign": lambda _: lambda x: x / (1 + np.abs(x)),
    "Sqrt": lambda _: np.sqrt,
    "Tanh": lambda _: np.tanh,
    "ThresholdedRelu": _threshold,
}
WITH_NUMBER: dict[str, Callable[[F64 | np.float64, F64 | np.float64], F64]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Pow": np.power,
    "Sub": np.subtract,
}
UNARY = (*_FUNCTIONS, *WITH_NUMBER)


def unary_function(node: Node) -> Real | None:
    """The real function that a node applies to each number of its one activation; None where it is no such node."""
    if node.domain:
        return None
    if node.op in _FUNCTIONS:
        return _FUNCTIONS[node.op](node)
    combine, inputs = WITH_NUMBER.get(node.op), node.inputs
    if combine is None or len(inputs) != 2:
        return None
    first, second = _number(node, 0), _number(node, 1)
    if second is not None and first is None:
        return lambda x: combine(x, np.float64(second))
    if first is not None and second is None:
        return lambda x: combine(np.float64(first), x)
    return None


def _number(node: Node, i: int) -> float | None:
    """Operand `i` where it is one constant number that does not give the result more axes."""
    value: Value | None = node.inputs[i] if i < len(node.inputs) else None
    if value is None or not value.is_constant or value.dtype != np.dtype(np.float32):
        return None
    numbers = value.values
    other = next((v for v in node.inputs if v is not None and not v.is_constant), None)
    rank = None if other is None or other.shape is None else len(other.shape)
    if numbers.size != 1 or numbers.ndim > (rank or 0):
        return None
    return float(numbers.reshape(()))


def code_table(
    function: Real, x: tuple[float, int], y: tuple[float, int], code_max: int
) -> NDArray[np.uint8]:
    """`table[q] = clip(rne(f(s_x * (q - z_x)) / s_y) + z_y)` for all 256 codes, in float64.

    Args:
        function: real; where it has no value (the logarithm of -1) the code is that of zero.
        x: scale and code of zero of the argument.
        y: scale and code of zero of the result.
        code_max: the largest code of the result.
    """
    codes = np.arange(256, dtype=np.float64)
    with np.errstate(all="ignore"):
        steps = function(x[0] * (codes - x[1])) / y[0]
    top = 2.0**20  # beyond any code; infinities saturate
    steps = np.clip(np.nan_to_num(steps, nan=0.0, posinf=top, neginf=-top), -top, top)
    return np.asarray(np.clip(np.rint(steps) + y[1], 0, code_max).astype(np.uint8))
