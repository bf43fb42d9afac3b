"""Sliding windows over a strided array, as one array of all positions and rows (im2col)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Descriptor, Window

Array = NDArray[Any]

_FEW_CHANNELS = 8  # below, tap by tap costs more than to gather all rows and take some


class WindowShape:
    """The counts of a source, with or without window: positions by rows.

    Attributes:
        positions: counts of the axes of positions, leading axes first.
        kernel: of the window; () without one.
        rows: rows of one position, kernel times channels.
        elements: of the padded source, and of all positions and rows: what memory the expansion may take.

    Raises:
        ValueError: the window does not fit the descriptor.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        counts, window = descriptor.counts, descriptor.window
        if not counts:
            raise ValueError("has no axis of rows")
        self.positions: tuple[int, ...] = counts[:-1]
        self.kernel: tuple[int, ...] = ()
        if window is None:
            padded = math.prod(counts)
        else:
            check_window(window, counts)
            first = len(counts) - 1 - len(window.kernel)
            out = window.out_counts(counts[first:-1])
            if min(out) < 1:
                raise ValueError("has a window larger than what it slides over")
            self.positions, self.kernel = counts[:first] + out, window.kernel
            spatial = zip(counts[first:-1], window.begin, window.end, strict=True)
            padded = math.prod(counts[:first]) * math.prod(sum(s) for s in spatial) * counts[-1]
        self.rows = math.prod(self.kernel) * counts[-1]
        self.elements = max(padded, math.prod(self.positions) * self.rows)


def check_window(window: Window, counts: tuple[int, ...]) -> None:
    """Refuse a window that does not fit its descriptor.

    Raises:
        ValueError: what is wrong with it.
    """
    axes = len(window.kernel)
    parts = (window.strides, window.dilations, window.begin, window.end)
    if not 1 <= axes < len(counts) or any(len(p) != axes for p in parts):
        raise ValueError("has a window of another number of axes")
    if min(*window.kernel, *window.strides, *window.dilations) < 1 or min(*window.begin, *window.end) < 0:
        raise ValueError("has a window with a size below one or a negative pad")


def expand(source: Array, window: Window | None, pad_value: int | None = None) -> Array:
    """All windows of an array, without a copy where nothing is padded.

    Args:
        source: (leading..., spatial..., channel).
        window: None gives the source itself.
        pad_value: what lies outside; None for the window's own.

    Returns:
        (leading..., positions..., kernel..., channel), read-only.
    """
    if window is None:
        return source
    axes = len(window.kernel)
    if any(window.begin) or any(window.end):
        source = _padded(source, window, window.pad_value if pad_value is None else pad_value)
    lead = source.ndim - 1 - axes
    spatial = source.shape[lead:-1]
    out = tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(spatial, window.kernel, window.strides, window.dilations, strict=True)
    )
    steps = source.strides[lead:-1]
    return as_strided(
        source,
        (*source.shape[:lead], *out, *window.kernel, source.shape[-1]),
        (
            *source.strides[:lead],
            *(t * s for t, s in zip(steps, window.strides, strict=True)),
            *(t * d for t, d in zip(steps, window.dilations, strict=True)),
            source.strides[-1],
        ),
        writeable=False,
    )


def _padded(source: Array, window: Window, value: int) -> Array:
    lead = source.ndim - 1 - len(window.kernel)
    pads = list(zip(window.begin, window.end, strict=True))
    shape = [
        *source.shape[:lead],
        *(n + b + e for n, (b, e) in zip(source.shape[lead:-1], pads, strict=True)),
    ]
    padded = np.full((*shape, source.shape[-1]), value, source.dtype)
    inner = tuple(slice(b, b + n) for n, (b, _) in zip(source.shape[lead:-1], pads, strict=True))
    padded[(*(slice(None),) * lead, *inner)] = source
    return padded


def gather(expanded: Array, kernel_axes: int, row0: int, rows: int, out: Array) -> None:
    """Copy rows `row0 ... row0 + rows - 1` of every position, converted to the dtype of `out`.

    Args:
        expanded: (positions..., kernel..., channel), as `expand` gives it.
        kernel_axes: axes of the kernel.
        row0: first of the rows (kernel..., channel) taken.
        rows: how many are.
        out: (positions..., rows), written.
    """
    channels = expanded.shape[-1]
    kernel = expanded.shape[expanded.ndim - 1 - kernel_axes : -1]
    if rows == math.prod(kernel) * channels:
        out.reshape(expanded.shape)[...] = expanded
        return
    if channels < _FEW_CHANNELS:
        every = np.ascontiguousarray(expanded).reshape(*out.shape[:-1], -1)
        out[...] = every[..., row0 : row0 + rows]
        return
    for tap in range(row0 // channels, -(-(row0 + rows) // channels)):
        begin, end = max(row0, tap * channels), min(row0 + rows, (tap + 1) * channels)
        at: tuple[Any, ...] = tuple(int(i) for i in np.unravel_index(tap, kernel)) if kernel else ()
        taken = slice(begin - tap * channels, end - tap * channels)
        out[..., begin - row0 : end - row0] = expanded[(..., *at, taken)]


def chunks(positions: tuple[int, ...], most: int, run: Callable[[tuple[slice, ...]], None]) -> None:
    """Call `run` with slices of the axes of positions that hold about `most` positions each."""
    total = math.prod(positions)
    if total <= most or not positions:
        run(())
        return
    axis = next(i for i, n in enumerate(positions) if n > 1)
    step = max(1, most * positions[axis] // total)
    for start in range(0, positions[axis], step):
        run((slice(None),) * axis + (slice(start, start + step),))
