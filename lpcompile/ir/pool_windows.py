"""Windows of an AveragePool: where they lie, and by how many numbers each of them divides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node


@dataclass(frozen=True, slots=True, eq=False)
class PoolWindows:
    """Windows over the spatial axes.

    Attributes:
        kernel, strides, dilations, begin, end: one number an axis; `end` holds what ceil_mode adds.
        counts: divisors, one a position, (1,) where all are equal.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    counts: NDArray[np.int64]


def pool_windows(node: Node, sizes: Sequence[int]) -> PoolWindows:
    """The windows of an AveragePool with explicit padding over an input of these spatial sizes."""
    kernel = [int(k) for k in node.attrs["kernel_shape"]]
    rank = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * rank]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * rank]
    pads = [int(p) for p in node.attrs.get("pads") or [0] * 2 * rank]
    begin, end = pads[:rank], pads[rank:]
    counts = np.ones((), np.int64)
    for i, size in enumerate(sizes):
        span = dilations[i] * (kernel[i] - 1) + 1
        room = size + begin[i] + end[i] - span
        out = room // strides[i] + 1
        if node.attrs.get("ceil_mode", 0) and room % strides[i]:
            out += (out * strides[i]) < size + begin[i]  # no window starts in the padding after the data
            end[i] = max(end[i], (out - 1) * strides[i] + span - size - begin[i])
        taps = np.arange(out)[:, None] * strides[i] + np.arange(kernel[i]) * dilations[i] - begin[i]
        inside = ((taps >= 0) & (taps < size)).sum(1)
        if node.attrs.get("count_include_pad", 0):
            inside = np.full(out, kernel[i])
        counts = counts[..., None] * inside
    if (counts == counts.flat[0]).all():
        counts = counts.reshape(-1)[:1]
    return PoolWindows(
        tuple(kernel), tuple(strides), tuple(dilations), tuple(begin), tuple(end), np.maximum(counts, 1)
    )
