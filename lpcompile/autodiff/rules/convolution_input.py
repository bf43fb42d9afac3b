"""Gradient of a convolution with respect to its data.

    dX[r] = sum over taps of delta[(r + begin - tap * dilation) / stride] W[tap], where that index is whole

Stride 1: a Conv of the delta with flipped weights, which runs in the layout of the forward pass (a ConvTranspose takes
1.2 times as long, 1.5 to 2.3 times depthwise). Larger strides: ConvTranspose, which takes two thirds of a Conv
that has every phase as a channel, a third of one over zeros between the deltas. In groups, where not every runtime
computes ConvTranspose right, the latter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.rules.windows import Windows, cut_to, pad_spatial, slice_axes, spread, typed
from lpcompile.ir.value import Value


@dataclass(frozen=True, slots=True)
class Kernel:
    """Weights of a grouped convolution, (C_out, C_in / group, *kernel)."""

    weight: Value
    dims: tuple[int, ...]
    group: int

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.group > 1 and self.dims[1] == 1 and self.dims[0] == self.group


def input_gradient(b: GradientBuilder, delta: Value, kernel: Kernel, w: Windows, data: Value) -> Value:
    """DL/dX (N, C_in, *sizes) from the delta (N, C_out, *counts); `data` is read for its shape alone."""
    if set(w.strides) == {1}:
        begin = [s - 1 - p for s, p in zip(w.spans, w.begin, strict=True)]
        end = [s - 1 - p for s, p in zip(w.spans, w.end, strict=True)]
        return _conv(b, delta, _flipped(b, kernel), kernel.group, begin, end, w.dilations)
    if kernel.group == 1:
        return _transposed(b, delta, kernel, w, data)
    return _by_zero_insertion(b, delta, kernel, w, data)


def _flipped(b: GradientBuilder, kernel: Kernel) -> Value:
    """The weights of the transposed convolution, (C_in, C_out / group, *kernel), taps reversed."""
    if kernel.weight.is_constant:
        return b.constant(_flip(kernel.weight.values, kernel.group))
    turned, rank = kernel.weight, len(kernel.dims) - 2
    if not kernel.depthwise:
        c_out, c_in, *taps = kernel.dims
        grouped = b.reshape(turned, [kernel.group, c_out // kernel.group, c_in, *taps])
        turned = b.transpose(grouped, [0, 2, 1, *range(3, 3 + rank)])
        turned = b.reshape(turned, [kernel.group * c_in, c_out // kernel.group, *taps])
    if set(kernel.dims[2:]) == {1}:
        return turned
    low = int(np.iinfo(np.int64).min)
    return slice_axes(b, turned, [-1] * rank, [low] * rank, [2 + i for i in range(rank)], [-1] * rank)


def _flip(weight: NDArray[np.generic], group: int) -> NDArray[np.generic]:
    c_out, c_in, *taps = weight.shape
    turned = weight.reshape(group, c_out // group, c_in, *taps).swapaxes(1, 2)
    turned = turned.reshape(group * c_in, c_out // group, *taps)
    return np.ascontiguousarray(np.flip(turned, tuple(range(2, weight.ndim))))


def _conv(
    b: GradientBuilder,
    x: Value,
    weight: Value,
    group: int,
    begin: Sequence[int],
    end: Sequence[int],
    dilations: Sequence[int] | None = None,
) -> Value:
    """A convolution with stride 1; negative padding takes elements of `x` away."""
    x = pad_spatial(b, x, [min(0, p) for p in begin], [min(0, p) for p in end])
    pads = [max(0, p) for p in (*begin, *end)]
    return typed(
        b, b.op("Conv", x, weight, group=group, pads=pads, dilations=list(dilations or [1] * len(begin))), x
    )


def _by_zero_insertion(b: GradientBuilder, delta: Value, kernel: Kernel, w: Windows, data: Value) -> Value:
    spaced, extra = spread(b, delta, w)
    begin = [s - 1 - p for s, p in zip(w.spans, w.begin, strict=True)]
    end = []
    for i, (size, count) in enumerate(zip(w.sizes, w.counts, strict=True)):
        if size is None or count is None:  # as many as there can be
            end.append(w.spans[i] - 1 - w.end[i] + (w.strides[i] - 1) - extra[i])
        else:
            end.append(size - (count - 1) * w.strides[i] - 1 + w.begin[i] - extra[i])
    made = _conv(b, spaced, _flipped(b, kernel), kernel.group, begin, end, w.dilations)
    return cut_to(b, made, data, w.rank) if None in (*w.sizes, *w.counts) else made


def _transposed(b: GradientBuilder, delta: Value, kernel: Kernel, w: Windows, data: Value) -> Value:
    begin, beyond = [max(0, p) for p in w.begin], [s - 1 for s in w.strides]
    end = [0] * w.rank
    known = None not in (*w.sizes, *w.counts)
    if known:  # what lies past the data is cropped; what no window reaches is added
        lengths = [
            (int(c or 0) - 1) * s + span for c, s, span in zip(w.counts, w.strides, w.spans, strict=True)
        ]
        rest = [n - p - int(size or 0) for n, p, size in zip(lengths, begin, w.sizes, strict=True)]
        end, beyond = [max(0, r) for r in rest], [max(0, -r) for r in rest]
    made = b.op(
        "ConvTranspose",
        delta,
        kernel.weight,
        strides=list(w.strides),
        dilations=list(w.dilations),
        pads=[*begin, *end],
        output_padding=beyond,
    )
    return typed(b, made, data) if known else cut_to(b, typed(b, made, data), data, w.rank)
