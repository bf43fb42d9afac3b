"""Gradient of a convolution with respect to its data, as a convolution of the delta.

    dX[r] = sum over taps of delta[(r + begin - tap * dilation) / stride] W[tap], where that index is whole

Stride 1: a Conv with flipped weights. Larger strides: one Conv that makes every phase r mod stride a channel of its
own, which a pixel shuffle puts side by side (few zeros in its kernels); depthwise, or with weights that are no
constant or sizes that are not known: zeros between the deltas. ConvTranspose is slower than either, depthwise most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

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
    if set(w.kernel) == {1} and not any((*w.begin, *w.end)):
        mixed = _conv(b, delta, _flipped(b, kernel), kernel.group, [0] * w.rank, [0] * w.rank)
        spaced, extra = spread(b, mixed, w)
        return _fitted(b, spaced, w, data, [e - 1 for e in extra]) if any(extra) else spaced
    if set(w.strides) == {1}:
        begin = [s - 1 - p for s, p in zip(w.spans, w.begin, strict=True)]
        end = [s - 1 - p for s, p in zip(w.spans, w.end, strict=True)]
        return _conv(b, delta, _flipped(b, kernel), kernel.group, begin, end, w.dilations)
    if kernel.weight.is_constant and not kernel.depthwise and None not in (*w.sizes, *w.counts):
        return _by_phases(b, delta, kernel, w)
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


def _fitted(b: GradientBuilder, spaced: Value, w: Windows, data: Value, slack: Sequence[int]) -> Value:
    """Spaced positions, without padding, cut or extended to the size of the data."""
    if None in (*w.sizes, *w.counts):
        longer = pad_spatial(b, spaced, [0] * w.rank, [max(0, -s) for s in slack])
        return cut_to(b, longer, data, w.rank)
    end = [int(n or 0) - int(c or 0) * s for n, c, s in zip(w.sizes, w.counts, w.strides, strict=True)]
    return pad_spatial(b, spaced, [0] * w.rank, end)


def _by_phases(b: GradientBuilder, delta: Value, kernel: Kernel, w: Windows) -> Value:
    """All phases by one Conv, (N, C_in * prod(strides), *ceil(sizes / strides)), then the pixel shuffle."""
    phases, first = phase_kernel(_flip(kernel.weight.values, kernel.group), w)
    lengths = [-(-int(n or 0) // s) for n, s in zip(w.sizes, w.strides, strict=True)]
    counts = [int(c or 0) for c in w.counts]
    begin = [-o for o in first]
    end = [q - c + t - 1 - p for q, c, t, p in zip(lengths, counts, phases.shape[2:], begin, strict=True)]
    made = _conv(b, delta, b.constant(phases), kernel.group, begin, end)
    mixed = _shuffled(b, made, w, lengths)
    cut = [int(n or 0) - q * s for n, q, s in zip(w.sizes, lengths, w.strides, strict=True)]
    return pad_spatial(b, mixed, [0] * w.rank, cut)


def _shuffled(b: GradientBuilder, x: Value, w: Windows, lengths: Sequence[int]) -> Value:
    """(N, C * prod(strides), *lengths) -> (N, C, *(lengths * strides))."""
    if w.rank == 2 and w.strides[0] == w.strides[1]:
        return typed(b, b.op("DepthToSpace", x, blocksize=w.strides[0], mode="CRD"), x)
    apart = b.reshape(x, [0, -1, *w.strides, *lengths])
    order = [0, 1] + [a for i in range(w.rank) for a in (2 + w.rank + i, 2 + i)]
    return b.reshape(
        b.transpose(apart, order), [0, -1, *(q * s for q, s in zip(lengths, w.strides, strict=True))]
    )


def phase_kernel(flipped: NDArray[np.generic], w: Windows) -> tuple[NDArray[np.generic], list[int]]:
    """Weights that compute every phase of the input as a channel.

    Args:
        flipped: (C_in, C_out / group, *kernel), taps reversed.
        w: the windows.

    Returns:
        (C_in * prod(strides), C_out / group, *reach), phases fastest, and the offset of the first tap on each
        axis: phase a at q reads delta[q + offset].
    """
    reads = [_reads(w, axis) for axis in range(w.rank)]  # (phase, tap) -> offset
    first = [min(r.values()) for r in reads]
    reach = [max(r.values()) - low + 1 for r, low in zip(reads, first, strict=True)]
    c_in, c_out = flipped.shape[:2]
    made = np.zeros((c_in, *w.strides, c_out, *reach), flipped.dtype)
    for found in product(*(r.items() for r in reads)):
        phase = tuple(key[0] for key, _ in found)
        tap = tuple(k - 1 - key[1] for k, (key, _) in zip(w.kernel, found, strict=True))
        at = tuple(offset - low for (_, offset), low in zip(found, first, strict=True))
        write: list[int | slice] = [slice(None), *phase, slice(None), *at]
        read: list[int | slice] = [slice(None), slice(None), *tap]
        made[tuple(write)] = flipped[tuple(read)]
    return made.reshape(-1, c_out, *reach), first


def _reads(w: Windows, axis: int) -> dict[tuple[int, int], int]:
    stride, dilation, begin = w.strides[axis], w.dilations[axis], w.begin[axis]
    return {
        (phase, tap): (phase + begin - tap * dilation) // stride
        for phase in range(stride)
        for tap in range(w.kernel[axis])
        if (phase + begin - tap * dilation) % stride == 0
    }
