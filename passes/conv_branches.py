"""What a convolution, a mean of windows, a norm or nothing at all makes of a tensor, as taps of a convolution.

y[o, n] = bias[o] + sum over i and t of weight[o, i, t] x[i, n * stride + first + t * dilation], with zeros around x.
[ding2019; ding2021, sec. 3.3]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import ARITHMETIC, F64, ChannelAffine, of_arithmetic, of_batchnorm
from lpcompile.passes.constant_inputs import input_at, output_at
from lpcompile.passes.conv_taps import MALFORMED, Taps
from lpcompile.passes.layer_constants import output_channels, weight_obstacle

SHARED = "its result is used elsewhere too"
NO_CONSTANT_MEAN = "a mean at the border is of fewer elements"
SHIFTED = "the padding of a mean is not shifted"
TWO_MEANS = "it takes a mean of a mean"
NO_NORM = "it scales or shifts by something else than constants"
ON_THE_WAY = ("BatchNormalization", "AveragePool", *ARITHMETIC)
MOST_ON_THE_WAY = 8


@dataclass(frozen=True, slots=True)
class Branch:
    """One operand of a sum, as a convolution of a tensor.

    Attributes:
        layer: the Conv; None where the weight is one number a channel.
        taps: where it reads.
        channels: of the result.
        inputs: channels of what it reads.
        gain: (channels,), the weight of every tap where there is no Conv.
        shift: (channels,), what is added where there is no Conv.
    """

    layer: Node | None
    taps: Taps
    channels: int
    inputs: int
    gain: F64
    shift: F64

    @property
    def elements(self) -> int:
        """Weights that are stored."""
        return self.taps.weights(self.channels, self.inputs) if self.layer else 0

    def add_to(self, weight: F64, bias: F64, taps: Taps) -> None:
        """Add its weight to (channels, inputs / group, *kernel), which stands at `taps`, and its bias."""
        own = self.taps
        at = tuple(
            slice((f - low) // step, (f - low) // step + (k - 1) * (d // step) + 1, max(1, d // step))
            for f, low, k, d, step in zip(
                own.first, taps.first, own.kernel, own.dilations, taps.dilations, strict=True
            )
        )
        if self.layer is None:
            kernel: F64 = np.broadcast_to(
                self.gain.reshape(-1, *[1] * (1 + len(at))), (self.channels, 1, *own.kernel)
            )
            bias += self.shift
        else:
            assert self.layer.inputs[1] is not None
            kernel = self.layer.inputs[1].values
            added = input_at(self.layer, 2)
            bias += 0.0 if added is None else added.values.reshape(-1).astype(np.float64)
        rows, columns = self.channels // own.group, self.inputs // own.group
        wide = self.inputs // taps.group
        for g in range(own.group):
            column = g * columns % wide
            part = slice(g * rows, (g + 1) * rows)
            weight[(part, slice(column, column + columns), *at)] += kernel[part]


@np.errstate(over="ignore", invalid="ignore")  # the caller looks for what is not finite
def summed(branches: Sequence[Branch], taps: Taps) -> tuple[F64, F64]:
    """Weight (channels, inputs / group, *kernel) and bias (channels,) of the Conv at `taps` that does their work."""
    first = branches[0]
    weight = np.zeros((first.channels, first.inputs // taps.group, *taps.kernel))
    bias = np.zeros(first.channels)
    for branch in branches:
        branch.add_to(weight, bias, taps)
    return weight, bias


def of_conv(conv: Node) -> Branch | str:
    """A Conv as a branch, or why it cannot be one."""
    if (obstacle := weight_obstacle(conv)) is not None:
        return obstacle
    weight = conv.inputs[1]
    assert weight is not None
    group = int(conv.attrs.get("group", 1))
    if len(weight.dims) < 3 or group < 1 or weight.dims[0] % group:
        return MALFORMED
    channels, columns, *kernel = weight.dims
    taps = Taps.of(conv, tuple(kernel), group)
    if isinstance(taps, str):
        return taps
    nothing = np.zeros(channels)
    return Branch(conv, taps, output_channels(conv), columns * group, nothing, nothing)


@np.errstate(over="ignore", invalid="ignore")
def of_others(graph: LpGraph, term: Value, source: Value, channels: int, rank: int) -> Branch | str | None:
    """Norms and means on the way from `source`, of so many channels and spatial axes, to `term`.

    Returns:
        The branch; why it cannot be one; or None where there is no such way.
    """
    path: list[Node] = []
    at = term
    while at != source:
        node = at.producer
        if node is None or node.domain or node.op not in ON_THE_WAY or len(path) == MOST_ON_THE_WAY:
            return None
        before = [v for v in node.inputs if v is not None and not v.is_constant]
        if not before or (node.op in ARITHMETIC and len(before) != 1):
            return None
        path.append(node)
        at = before[0]
    if not all(graph.sole_producer(output_at(node)) for node in path):
        return SHARED
    ones, zeros = np.ones(channels), np.zeros(channels)
    branch = Branch(None, Taps.single(rank, channels), channels, channels, ones, zeros)
    for node in reversed(path):
        more = _mean(node, branch) if node.op == "AveragePool" else _scaled(graph, node, at, branch)
        if isinstance(more, str):
            return more
        branch, at = more, output_at(node)
    return branch


def _scaled(graph: LpGraph, node: Node, source: Value, inner: Branch) -> Branch | str:
    """A norm of a branch."""
    if node.op == "BatchNormalization":
        affine: ChannelAffine | str | None = of_batchnorm(graph, node, inner.channels)
    else:
        affine = of_arithmetic(node, source, inner.channels, 2 + len(inner.taps.kernel), 1)
    if not isinstance(affine, ChannelAffine):
        return affine or NO_NORM
    return replace(inner, gain=inner.gain * affine.gain, shift=inner.shift * affine.gain + affine.shift)


def _mean(pool: Node, inner: Branch) -> Branch | str:
    """The mean of windows of a branch."""
    kernel = tuple(pool.attrs.get("kernel_shape", ()))
    taps = Taps.of(pool, kernel, inner.taps.group)
    if isinstance(taps, str) or len(kernel) != len(inner.taps.kernel):
        return taps if isinstance(taps, str) else MALFORMED
    padded = any(taps.pads())
    if pool.attrs.get("ceil_mode", 0) or (padded and not pool.attrs.get("count_include_pad", 0)):
        return NO_CONSTANT_MEAN
    if padded and inner.shift.any():
        return SHIFTED
    if prod(inner.taps.kernel) > 1 or prod(inner.taps.strides) > 1:
        return TWO_MEANS
    return replace(inner, taps=taps, gain=inner.gain / prod(taps.kernel))
