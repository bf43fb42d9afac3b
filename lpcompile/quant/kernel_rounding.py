"""Rounding that keeps the sum of every convolution kernel: neighbouring pixels are alike, so that sum is what they see.

With inputs of equal second moment and correlation rho between the taps of a kernel, the output error of one kernel is
J = (1 - rho) sum_k e_k^2 + rho (sum_k e_k)^2. Nearest rounding minimises the first term alone; here codes move to the
neighbouring level while that lowers J. No data needed. [squant2022, sec. 3: kernel-wise sums]
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32
from lpcompile.formats.group import group_table
from lpcompile.quant.qtensor import QuantizedTensor

MOST_MOVES = 8
_CHUNK = 1 << 18


def round_kernels(rows: F32, tensor: QuantizedTensor, taps: int, rho: float) -> QuantizedTensor:
    """Move codes of a rounded layer so that kernel sums are kept.

    Args:
        rows: the real weights, (C_out, K), K = input channels x taps.
        tensor: their nearest rounding, with an int8 image.
        taps: elements of one kernel; 1 changes nothing.
        rho: correlation of the taps' inputs, 0 (nothing changes) to 1 (only sums matter).
    """
    if taps < 2 or not tensor.has_int8_image or rows.shape[1] % taps:
        return tensor
    w8, scale = tensor.int8_image()
    steps = np.broadcast_to(scale.reshape(-1, 1), (len(rows), 1)).astype(np.float32)
    if not tensor.has_integer_groups and _is_uniform(tensor):
        return _round_uniform(rows, tensor, taps, rho)
    levels, offsets = _levels(tensor)
    up, down = _neighbours(levels, tensor.format.bits)
    codes = tensor.codes.copy()
    chunk = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        index = codes[part].astype(np.intp) + (0 if offsets is None else offsets[part].astype(np.intp))
        error = w8[part].astype(np.float32) - rows[part] / steps[part]  # in units of the image
        shape = (-1, taps)
        moved = _move(index.reshape(shape), error.reshape(shape), levels, up, down, rho)
        codes[part] = (moved & ((1 << tensor.format.bits) - 1)).astype(np.uint8).reshape(codes[part].shape)
    return replace(tensor, codes=codes)


def _is_uniform(tensor: QuantizedTensor) -> bool:
    image = tensor.format.image()
    return image is not None and bool((np.diff(np.unique(image)) == 1).all())


def _round_uniform(rows: F32, tensor: QuantizedTensor, taps: int, rho: float) -> QuantizedTensor:
    """The same for levels one apart: the best move is of the largest error on the side of the sum, by one step."""
    w8, scale = tensor.int8_image()
    w8 = w8.copy()
    image = tensor.format.image()
    assert image is not None
    ends = int(image.min()), int(image.max())
    steps = np.broadcast_to(scale.reshape(-1, 1), (len(rows), 1)).astype(np.float32)
    chunk = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        levels = w8[part].reshape(-1)
        error = np.subtract(levels, (rows[part] / steps[part]).reshape(-1))  # float32
        _step_by_one(levels, np.ascontiguousarray(error.reshape(-1, taps).T), ends, rho)
    codes = np.zeros(256, np.uint8)
    codes[image.view(np.uint8)[::-1]] = np.arange(len(image), dtype=np.uint8)[
        ::-1
    ]  # reserved codes stay unused
    if not np.array_equal(codes, np.arange(256)):
        return replace(tensor, codes=np.take(codes, w8.view(np.uint8)))
    return replace(tensor, codes=w8.view(np.uint8))


def _step_by_one(w8: NDArray[np.int8], error: F32, ends: tuple[int, int], rho: float) -> None:
    """Move levels of many kernels in place: w8 (N * taps,), error (taps, N) = w8 minus the real weights."""
    taps, total = len(error), error.sum(0)  # a kernel is a column: sums and maxima over rows are quick
    # J changes by (1 - rho)(1 - 2|e|) + rho(1 - 2|sum|): nothing to gain while |sum| is small
    kernel = left = np.flatnonzero(np.abs(total) > 0.5)
    for _ in range(MOST_MOVES):
        if not len(left):
            return
        error, total = error.take(left, axis=1), total[left]
        sign = np.sign(total)
        tap, worst = _largest(error * sign)
        at = kernel * taps + tap
        gain = (1 - rho) * (1 - 2 * worst) + rho * (1 - 2 * np.abs(total))
        moves = (gain < -1e-6) & np.where(sign > 0, w8[at] > ends[0], w8[at] < ends[1])
        sign *= moves
        w8[at] -= sign.astype(np.int8)
        total -= sign
        left = np.flatnonzero(moves & (np.abs(total) > 0.5))
        error[tap[left], left] -= sign[left]
        kernel = kernel[left]


def _largest(columns: F32) -> tuple[NDArray[np.intp], F32]:
    """Row and value of the first largest element of each column; `argmax` takes short columns one by one."""
    value = columns.max(0)
    row, before = np.zeros(len(value), np.uint16), np.ones(len(value), np.bool_)
    for elements in columns[:-1]:
        before &= elements != value
        row += before
    return row.astype(np.intp), value


def tap_correlation(kernel: tuple[int, ...], neighbours: float) -> float:
    """Mean correlation of two different taps of a kernel when neighbours correlate by `neighbours`.

    Correlation falls off with the distance as `neighbours ** distance` along each axis (a first-order process).
    """
    matrix: NDArray[np.float64] = np.ones((1, 1))
    for size in kernel:
        distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        matrix = np.asarray(np.kron(matrix, np.power(float(neighbours), distance)), np.float64)
    taps = len(matrix)
    return float((matrix.sum() - taps) / (taps * (taps - 1))) if taps > 1 else 0.0


def _levels(tensor: QuantizedTensor) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Image of (multiplier, code) by index m * 2^bits + code, and the offsets of the elements."""
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape)
        table = group_table(tensor.format).astype(np.float32)
        return table.reshape(-1), (m << np.uint8(tensor.format.bits)).astype(np.uint8)
    image = tensor.format.image()
    assert image is not None
    return image.astype(np.float32), None


def _neighbours(levels: NDArray[np.float32], bits: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index of the next higher and next lower level in each row of the table; its own at the ends."""
    rows = levels.reshape(-1, 1 << bits)
    up, down = (
        np.arange(levels.size).reshape(rows.shape).copy(),
        np.arange(levels.size).reshape(rows.shape).copy(),
    )
    for r, row in enumerate(rows):
        values, first = np.unique(row, return_index=True)
        place = np.searchsorted(values, row)
        base = r << bits
        up[r] = base + first[np.minimum(place + 1, len(values) - 1)]
        down[r] = base + first[np.maximum(place - 1, 0)]
    return up.reshape(-1), down.reshape(-1)


def _move(
    index: NDArray[np.intp],
    error: NDArray[np.float32],
    levels: NDArray[np.float32],
    up: NDArray[np.intp],
    down: NDArray[np.intp],
    rho: float,
) -> NDArray[np.intp]:
    """One code of every kernel at a time, the one that lowers J most, until none does."""
    index, error = index.copy(), error.copy()
    active = np.arange(len(index))
    for _ in range(MOST_MOVES):
        total = error[active].sum(1)
        other = np.where((total > 0)[:, None], down[index[active]], up[index[active]])
        delta = levels[other] - levels[index[active]]
        gain = (1 - rho) * (2 * error[active] * delta + delta**2) + rho * (
            2 * total[:, None] * delta + delta**2
        )
        best = gain.argmin(1)
        row = np.arange(len(active))
        better = gain[row, best] < -1e-6
        active, best, row = active[better], best[better], row[better]
        if not len(active):
            break
        index[active, best] = other[row, best]
        error[active, best] += delta[row, best]
    return index
