"""Nodes that scale and shift each channel: batch norms, and Mul, Div, Add and Sub of constants a channel.

BatchNormalization at inference: gain = gamma / sqrt(var + eps), shift = beta - mean * gain.
[jacob2018, sec. 3.2]
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import is_float

F64 = NDArray[np.float64]
ARITHMETIC = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True, slots=True)
class ChannelAffine:
    """y = gain * x + shift along one axis.

    Attributes:
        source: x.
        gain: shape (C,).
        shift: shape (C,).
    """

    source: Value
    gain: F64
    shift: F64

    @property
    def keeps_scale(self) -> bool:
        """Whether it only shifts."""
        return bool(np.all(self.gain == 1.0))

    @property
    def keeps_zero(self) -> bool:
        """Whether it only scales."""
        return not self.shift.any()


def of_batchnorm(graph: LpGraph, bn: Node, channels: int) -> ChannelAffine | str:
    """What a BatchNormalization over `channels` channels does, or why that cannot be said."""
    source, *params = bn.inputs
    if bn.attrs.get("training_mode", 0) or (graph.opset < 7 and not bn.attrs.get("is_test", 0)):
        return "it is in training mode"
    if len(bn.outputs) > 1:
        return "it has further outputs, as in training"
    if not bn.attrs.get("spatial", 1):
        return "it has statistics for every position (spatial=0)"
    if source is None or len(params) != 4 or any(p is None or not p.is_constant for p in params):
        return "its parameters are not constant"
    if any(p is None or p.shape != (channels,) for p in params):
        return "its parameters do not fit the channels of the layer"
    gamma, beta, mean, var = (p.values.astype(np.float64) for p in params if p is not None)  # (C,) each
    spread = var + bn.attrs.get("epsilon", 1e-5)
    if not np.all(spread > 0):
        return "its variance is not positive"
    gain = gamma / np.sqrt(spread)
    return ChannelAffine(source, gain, beta - mean * gain)


def of_arithmetic(
    node: Node, source: Value, channels: int, rank: int, axis: int
) -> ChannelAffine | str | None:
    """What a Mul, Div, Add or Sub of `source` and a constant does to each channel.

    Args:
        node: the node.
        source: its input that is not constant.
        channels: size of the channel axis.
        rank: axes of `source`.
        axis: its channel axis, not negative.

    Returns:
        The affine map; why it is none; or None where the node is not of that kind at all.
    """
    first, second = node.inputs
    other = second if first == source else first
    if other is None or not other.is_constant or not is_float(other):
        return None
    if node.op == "Div" and other == first:
        return None
    shape = other.shape or ()
    full = (1,) * (rank - len(shape)) + shape
    elsewhere = [d for i, d in enumerate(full) if i != axis]
    if len(full) != rank or full[axis] not in (1, channels) or any(d != 1 for d in elsewhere):
        return "its constant is not one number a channel"
    c: F64 = np.broadcast_to(other.values.reshape(-1).astype(np.float64), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return ChannelAffine(source, c, zero)
    if node.op == "Add":
        return ChannelAffine(source, one, c)
    if node.op == "Sub":
        return ChannelAffine(source, one, -c) if other == second else ChannelAffine(source, -one, c)
    if not np.all(c != 0):
        return "it divides by zero"
    return ChannelAffine(source, 1.0 / c, zero)
