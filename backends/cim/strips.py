"""Cut the positions of an output into strips that fit a local buffer, and say which input each strip needs."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil, prod

from lpcompile.backends.cim.program import Window

Range = tuple[int, int]


def strip_sizes(
    counts: Sequence[int], need: Callable[[tuple[int, ...]], int], capacity: int, least: int
) -> tuple[int, ...] | None:
    """Extent of a strip along each axis, leading axes cut first; None where not even one position fits.

    Args:
        counts: output positions along each axis.
        need: bytes that a strip of some extent takes.
        capacity: bytes that there are.
        least: strips that there should be, so that queues and cores can overlap.
    """
    sizes = list(counts)
    for axis, n in enumerate(counts):
        others = prod(ceil(c / s) for c, s in zip(counts, sizes, strict=True))
        if others >= least:
            break
        sizes[axis] = max(1, n // max(1, ceil(least / others)))
    for axis in range(len(counts)):
        low, high = 1, sizes[axis]  # the largest extent that fits, if any does
        while low < high:
            middle = (low + high + 1) // 2
            sizes[axis] = middle
            low, high = (middle, high) if need(tuple(sizes)) <= capacity else (low, middle - 1)
        sizes[axis] = low
        if need(tuple(sizes)) <= capacity:
            sizes[axis] = ceil(counts[axis] / ceil(counts[axis] / sizes[axis]))  # of even extent
            return tuple(sizes)
    return tuple(sizes) if need(tuple(sizes)) <= capacity else None


def strips(counts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[Range, ...]]:
    """The strips in memory order."""
    yield from product(
        *([(a, min(a + s, n)) for a in range(0, n, s)] for n, s in zip(counts, sizes, strict=True))
    )


def input_extent(window: Window, counts: Sequence[int], extent: Sequence[int]) -> tuple[int, ...]:
    """Input indices along each spatial axis that an extent of output positions can need."""
    return tuple(
        min(n, (e - 1) * s + d * (k - 1) + 1)
        for n, e, s, d, k in zip(counts, extent, window.strides, window.dilations, window.kernel, strict=True)
    )


def band(window: Window, counts: Sequence[int], strip: Sequence[Range]) -> tuple[tuple[Range, ...], Window]:
    """The input that a strip of output positions reads, and the window over just that.

    Args:
        window: over the whole input.
        counts: spatial counts of the whole input.
        strip: output positions along each spatial axis, each of which reads at least one index of the input.

    Returns:
        Input ranges, and the window with what is left of the padding.
    """
    ranges, begins, ends = [], [], []
    for axis, (first, stop) in enumerate(strip):
        stride, reach = window.strides[axis], window.dilations[axis] * (window.kernel[axis] - 1)
        low = first * stride - window.begin[axis]
        high = (stop - 1) * stride - window.begin[axis] + reach + 1
        inside = (max(low, 0), min(high, counts[axis]))
        ranges.append(inside)
        begins.append(inside[0] - low)
        ends.append(high - inside[1])
    return tuple(ranges), Window(
        window.kernel, window.strides, window.dilations, tuple(begins), tuple(ends), window.pad_value
    )
