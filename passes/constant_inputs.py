"""Read what a rewrite must know of a node's settings: constants small enough to look at."""

import math

import numpy as np

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def elements(value: Value) -> int | None:
    """Number of elements of a tensor, None where a dimension is not known."""
    if value.shape is None:
        return None
    dims = [d for d in value.shape if isinstance(d, int)]
    return math.prod(dims) if len(dims) == len(value.shape) else None


def scalar_of(value: Value | None) -> float | None:
    """The number in a constant of one element, of whatever rank; None for anything else."""
    if value is None or not value.is_constant or elements(value) != 1 or value.dtype is None:
        return None
    if value.dtype.kind not in "iufV":
        return None
    return float(value.values.reshape(-1)[0].astype(np.float64))


def input_at(node: Node, index: int) -> Value | None:
    """An input by position, None where it is omitted."""
    inputs = node.inputs
    return inputs[index] if index < len(inputs) else None


def output_at(node: Node) -> Value:
    """The first output, which every operator handled by these passes has."""
    value = node.outputs[0]
    if value is None:
        raise ValueError(f"{node.op} without a first output")
    return value


def is_settled(node: Node, *indices: int) -> bool:
    """Whether each of these inputs is a constant or omitted."""
    values = (input_at(node, i) for i in indices)
    return all(v is None or v.is_constant for v in values)


def ints_of(node: Node, attribute: str, index: int | None = None) -> list[int] | None:
    """A list of integers from an attribute (old opsets) or else a constant input; None where absent.

    Ask `is_settled` first: an input that is not constant reads as absent.
    """
    if attribute in node.attrs:
        given = node.attrs[attribute]
        return [int(i) for i in (given if isinstance(given, list) else [given])]
    value = None if index is None else input_at(node, index)
    if value is None or not value.is_constant:
        return None
    return [int(i) for i in value.values.reshape(-1)]


def rank_of(value: Value | None) -> int | None:
    """Number of axes, None where not known."""
    return None if value is None or value.shape is None else len(value.shape)


def dim_of(value: Value | None, axis: int) -> int | None:
    """A dimension where it is a known number."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def is_float(value: Value | None) -> bool:
    """Whether the element type is known and is float16, float32, float64 or bfloat16."""
    return value is not None and value.dtype is not None and value.dtype.name in _FLOATS


def is_single_or_half(value: Value | None) -> bool:
    """Whether the element type is known and is float16 or float32: all that some kernels take."""
    return value is not None and value.dtype is not None and value.dtype.name in ("float16", "float32")


_FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
