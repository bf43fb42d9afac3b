"""The value of simple nodes whose inputs are constants, by numpy; for the others see `runtime_evaluation`."""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node
from lpcompile.passes.constant_inputs import input_at, ints_of, output_at

Array = NDArray[Any]


class ResultTooLargeError(Exception):
    """The result would take more bytes than allowed; it has not been made."""


def evaluate(node: Node, opset: int, limit_bytes: int) -> Array | None:
    """The output of a node with constant inputs, None where this module does not know the operator.

    Raises:
        ResultTooLargeError: the output would take more than `limit_bytes`.
    """
    rule = _RULES.get(node.op)
    if rule is None or node.inputs[:1] in ([], [None]) or (opset < 7 and node.op in _BROADCASTING):
        return None
    result = rule(node, limit_bytes)
    if result is not None and result.nbytes > limit_bytes:
        raise ResultTooLargeError
    return result


def _data(node: Node, index: int = 0) -> Array:
    value = input_at(node, index)
    if value is None:
        raise ValueError(f"{node.name} has no input {index}")
    return value.values


def _axes(node: Node, rank: int) -> list[int] | None:
    axes = ints_of(node, "axes", 1)
    return None if axes is None else [a % rank for a in axes]


def _identity(node: Node, limit: int) -> Array:
    return _data(node)


def _cast(node: Node, limit: int) -> Array | None:
    data, to = _data(node), output_at(node).dtype
    if data.dtype == ml_dtypes.bfloat16 and to == np.float32:
        return data.astype(to)  # exact: weights that are stored in half their bytes
    if to is None or data.dtype.kind not in "biuf" or to.kind not in "biuf":
        return None
    if data.dtype.kind == "f" and to.kind in "iu":
        return None  # what happens out of range is the runtime's own affair
    with np.errstate(over="ignore"):
        return data.astype(to)


def _unsqueeze(node: Node, limit: int) -> Array | None:
    data, axes = _data(node), ints_of(node, "axes", 1)
    return None if axes is None else np.expand_dims(data, tuple(axes))


def _squeeze(node: Node, limit: int) -> Array:
    data = _data(node)
    axes = _axes(node, max(data.ndim, 1))
    return data.squeeze() if axes is None else data.squeeze(tuple(axes))


def _reshape(node: Node, limit: int) -> Array | None:
    data, target = _data(node), ints_of(node, "shape", 1)
    if target is None:
        return None
    if not node.attrs.get("allowzero", 0):
        target = [data.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return data.reshape(target)


def _flatten(node: Node, limit: int) -> Array:
    data, axis = _data(node), node.attrs.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _transpose(node: Node, limit: int) -> Array:
    return np.ascontiguousarray(_data(node).transpose(node.attrs.get("perm")))


def _concat(node: Node, limit: int) -> Array:
    return np.concatenate([v.values for v in node.inputs if v is not None], node.attrs.get("axis", 1))


def _gather(node: Node, limit: int) -> Array:
    data, indices, axis = _data(node), _data(node, 1), node.attrs.get("axis", 0)
    size = data.size // max(data.shape[axis], 1) * indices.size
    if size * data.itemsize > limit:
        raise ResultTooLargeError
    return np.take(data, indices, axis)


def _slice(node: Node, limit: int) -> Array | None:
    data = _data(node)
    starts, ends = ints_of(node, "starts", 1), ints_of(node, "ends", 2)
    if starts is None or ends is None:
        return None
    axes = ints_of(node, "axes", 3) or range(len(starts))
    steps = ints_of(node, "steps", 4) or [1] * len(starts)
    if any(step < 0 for step in steps):
        return None
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(start, end, step)
    return np.ascontiguousarray(data[tuple(cut)])


def _constant_of_shape(node: Node, limit: int) -> Array:
    shape = [int(d) for d in _data(node)]
    fill = np.asarray(node.attrs.get("value", np.zeros(1, np.float32))).reshape(-1)
    if math.prod(shape) * fill.itemsize > limit:
        raise ResultTooLargeError
    return np.full(shape, fill[0])


def _expand(node: Node, limit: int) -> Array:
    data, target = _data(node), tuple(int(d) for d in _data(node, 1))
    view = np.broadcast_to(data, np.broadcast_shapes(data.shape, target))
    if view.nbytes > limit:
        raise ResultTooLargeError
    return np.ascontiguousarray(view)


def _range(node: Node, limit: int) -> Array | None:
    start, stop, step = (_data(node, i).reshape(-1)[0] for i in range(3))
    if start.dtype.kind != "i" or step == 0:
        return None
    count = max(-(-(int(stop) - int(start)) // int(step)), 0)
    if count * start.itemsize > limit:
        raise ResultTooLargeError
    return np.asarray(np.arange(count, dtype=start.dtype) * step + start)


def _chosen(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


def _where(node: Node, limit: int) -> Array:
    return _guarded(limit, _chosen, _data(node), _data(node, 1), _data(node, 2))


def _binary(function: Callable[[Array, Array], Array], kinds: str) -> "Rule":
    def rule(node: Node, limit: int) -> Array | None:
        a, b = _data(node), _data(node, 1)
        if a.dtype.kind not in kinds:
            return None
        return _guarded(limit, function, a, b)

    return rule


def _guarded(limit: int, function: Callable[..., Array], *arrays: Array) -> Array:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    if math.prod(shape) * arrays[-1].itemsize > limit:
        raise ResultTooLargeError
    with np.errstate(all="ignore"):
        return np.asarray(function(*arrays))


Rule = Callable[[Node, int], Array | None]

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Equal"})  # by attributes before opset 7

_RULES: dict[str, Rule] = {
    "Identity": _identity,
    "Cast": _cast,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "Where": _where,
    "Add": _binary(np.add, "iuf"),
    "Sub": _binary(np.subtract, "iuf"),
    "Mul": _binary(np.multiply, "iuf"),
    "Div": _binary(np.divide, "f"),
    "Equal": _binary(np.equal, "biuf"),
}
