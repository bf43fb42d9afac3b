"""Scales and shifts by channel that no layer took in: a BatchNormalization, or Mul, Div, Add, Sub of constants."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

F64 = NDArray[np.float64]
CONSTANT_OPERAND = ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True, slots=True, eq=False)
class ChannelNorm:
    """`y = scale * x + shift` by channel.

    Attributes:
        scale, shift: (C,).
        trailing: axes after that of the channels.
        centre: (C,) mean inputs, of a batch norm; None: not known.
    """

    scale: F64
    shift: F64
    trailing: int
    centre: F64 | None = None


def channel_norm(node: Node) -> ChannelNorm | None:
    """What a node does to each channel; None where it is no scale and shift by channel."""
    if node.domain:
        return None
    if node.op == "BatchNormalization":
        return _of_batchnorm(node)
    return _of_arithmetic(node) if node.op in CONSTANT_OPERAND else None


def following_bias(value: Value) -> Node | None:
    """The Add of one constant for each index of the last axis that alone reads `value`, if that is all there is."""
    readers = value.consumers
    if len(readers) != 1 or value.is_output or value.used_in_subgraph or readers[0].op != "Add":
        return None
    norm = channel_norm(readers[0])
    return readers[0] if norm is not None and norm.trailing == 0 else None


def _of_batchnorm(node: Node) -> ChannelNorm | None:
    x, *parameters = node.inputs[:5]
    known = [v.values.astype(np.float64) for v in parameters if v is not None and v.is_constant]
    if x is None or x.shape is None or len(known) != 4 or node.attrs.get("training_mode", 0):
        return None
    gamma, beta, mean, variance = known
    variance = variance + float(node.attrs.get("epsilon", 1e-5))
    if not (variance > 0).all():  # a NaN, too
        return None
    scale = gamma / np.sqrt(variance)
    return ChannelNorm(scale, beta - mean * scale, len(x.shape) - 2, mean)


def _of_arithmetic(node: Node) -> ChannelNorm | None:
    a, b = (*node.inputs, None, None)[:2]
    if a is None or b is None or a.is_constant == b.is_constant:
        return None
    x, constant = (b, a) if a.is_constant else (a, b)
    found = _by_channel(x, constant)
    if found is None or (node.op == "Div" and a.is_constant):
        return None
    c, trailing = found
    one, none = np.ones_like(c), np.zeros_like(c)
    if node.op == "Add":
        return ChannelNorm(one, c, trailing)
    if node.op == "Sub":
        return ChannelNorm(-one, c, trailing) if a.is_constant else ChannelNorm(one, -c, trailing)
    if node.op == "Div" and not c.all():
        return None
    return ChannelNorm(c if node.op == "Mul" else 1 / c, none, trailing)


def _by_channel(x: Value, constant: Value) -> tuple[F64, int] | None:
    """The numbers of a constant that varies along one axis of `x`, and how many axes of `x` follow that one."""
    if x.shape is None or constant.dtype != np.dtype(np.float32):
        return None
    sizes = constant.values.shape
    wide = [i for i, n in enumerate(sizes) if n != 1]
    if len(wide) != 1 or len(sizes) > len(x.shape):
        return None
    trailing = len(sizes) - 1 - wide[0]
    if x.shape[len(x.shape) - 1 - trailing] != sizes[wide[0]]:
        return None
    return constant.values.reshape(-1).astype(np.float64), trailing
