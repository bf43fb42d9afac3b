"""Moments of the inputs of layers for each of the K products of an output, from the calibration sweep."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.ir.conv_geometry import ConvGeometry
from lpcompile.ir.node import Node


def moment_axes(layers: list[Node]) -> dict[str, int]:
    """Input tensor of each layer -> axis of its channels; where layers differ, the last one's."""
    return {
        n.inputs[0].name: _channel_axis(n) for n in layers if n.inputs[0] is not None and _has_channels(n)
    }


def row_means(node: Node, statistics: Mapping[str, TensorStatistics]) -> NDArray[np.float64] | None:
    """E[x_k] for each row of a layer's weights, (C_out, K).

    A channel's mean serves all kernel positions, less the share of outputs for which one reads padding.
    """
    found = _of(node, statistics)
    if found is None or found.channel_mean is None:
        return None
    means = _spread(node, found.channel_mean)
    if node.op != "Conv" or not any(found.spatial):
        return means
    shares = [n * _inside(node, sizes) for sizes, n in found.spatial.items()]
    inside = np.sum(shares, 0) / found.spatial.total()
    return np.asarray(means * np.tile(inside, means.shape[1] // len(inside)))


def _inside(node: Node, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Of each kernel position, the share of outputs for which it reads data, (T,)."""
    weight = node.inputs[1]
    assert weight is not None
    geometry = ConvGeometry.of(node.attrs, weight.dims[2:], sizes)
    share = np.ones(1)
    for axis, (taps, size) in enumerate(zip(geometry.kernel, sizes, strict=True)):
        first = np.arange(geometry.out[axis]) * geometry.strides[axis] - geometry.begin[axis]
        at = first + np.arange(taps)[:, None] * geometry.dilations[axis]
        share = np.outer(share, ((at >= 0) & (at < size)).mean(1)).ravel()
    return share


def second_moments(node: Node, statistics: Mapping[str, TensorStatistics]) -> NDArray[np.float32] | None:
    """E[x_k^2], (K,). Rows of a grouped convolution see different channels: they share the mean over rows."""
    found = _of(node, statistics)
    if found is None or found.channel_second_moment is None:
        return None
    largest = np.finfo(np.float32).max  # squares of large activations leave float32
    return np.asarray(np.minimum(_spread(node, found.channel_second_moment).mean(0), largest), np.float32)


def _of(node: Node, statistics: Mapping[str, TensorStatistics]) -> TensorStatistics | None:
    x = node.inputs[0]
    found = statistics.get(x.name) if x is not None and _has_channels(node) else None
    # a tensor that a Conv and a MatMul read has the moments of one axis only
    return found if found is not None and found.channel_axis == _channel_axis(node) else None


def _channel_axis(node: Node) -> int:
    return 1 if node.op == "Conv" else -1


def _has_channels(node: Node) -> bool:
    """Whether the products of an output are channels of the input on a known axis, in the weights' order."""
    return node.op != "ConvTranspose" and not (node.attrs.get("transA", 0) or node.attrs.get("transB", 0))


def _spread(node: Node, moment: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = node.inputs[1]
    assert weight is not None
    shape = weight.dims
    if node.op != "Conv":
        return np.broadcast_to(moment, (shape[-1], len(moment)))
    group = int(node.attrs.get("group", 1))
    per_group = np.repeat(moment.reshape(group, -1), math.prod(shape[2:]), axis=1)  # (group, K)
    spread = np.broadcast_to(per_group[:, None], (group, shape[0] // group, per_group.shape[1]))
    return spread[0] if group == 1 else spread.reshape(shape[0], -1)
