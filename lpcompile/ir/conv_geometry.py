"""Where a convolution or a pool reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Where a convolution or a pool reads, for any number of spatial axes.

    Attributes:
        kernel, strides, dilations: one number an axis.
        begin: padding before, one number an axis.
        out: output sizes.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], kernel: Sequence[int], sizes: Sequence[int]) -> "ConvGeometry":
        """From the attributes of Conv or a pool and the spatial sizes of the input."""
        rank = len(kernel)
        strides = tuple(attributes.get("strides") or [1] * rank)
        dilations = tuple(attributes.get("dilations") or [1] * rank)
        pads = list(attributes.get("pads") or [0] * 2 * rank)
        mode = attributes.get("auto_pad", "NOTSET")
        if mode == "VALID":
            pads = [0] * 2 * rank
        elif mode != "NOTSET":
            pads = _same_pads(mode, kernel, strides, dilations, sizes)
        out = []
        for i, size in enumerate(sizes):
            room = size + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1
            n = room // strides[i] + 1
            if attributes.get("ceil_mode", 0) and room % strides[i]:
                n += (n * strides[i]) < size + pads[i]  # no window starts in the padding after the data
            out.append(n)
        return cls(tuple(kernel), strides, dilations, tuple(pads[:rank]), tuple(out))

    def taps(
        self, positions: Ints, sizes: Sequence[int]
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.intp]]:
        """Where the taps of flat output positions lie in the input.

        Returns:
            (P, T) flat indices, 0 where a tap falls outside; (P, T) whether it falls on data; (axes, P, T)
            coordinates, negative in the padding before the data.
        """
        outs = np.unravel_index(positions, self.out)
        taps = np.unravel_index(np.arange(prod(self.kernel)), self.kernel)
        flat = np.zeros((len(positions), prod(self.kernel)), np.intp)
        valid = np.ones(flat.shape, np.bool_)
        coordinates = np.empty((len(self.kernel), *flat.shape), np.intp)
        for i, size in enumerate(sizes):
            at = outs[i][:, None] * self.strides[i] + taps[i] * self.dilations[i] - self.begin[i]
            coordinates[i] = at
            valid &= (at >= 0) & (at < size)
            flat = flat * size + at
        return np.where(valid, flat, 0), valid, coordinates


def _same_pads(
    mode: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], sizes: Sequence[int]
) -> list[int]:
    """Pads that make ceil(size / stride) outputs, starts then ends; the odd one goes where the mode says."""
    begin, end = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small = total // 2
        begin.append(total - small if mode == "SAME_LOWER" else small)
        end.append(total - begin[-1])
    return [*begin, *end]
