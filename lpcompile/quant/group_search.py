"""Integer group scales, searched together with the channel scale.

`W^[c, k] = s_c * T[m_g][code]`, g = k // size. For each channel candidates s_c lie on the grid of stored
scales; for each of them every group takes the m_g of least (weighted) squared error. Three steps make it
fast:

1. the error of each group as a function of a continuous group scale s, sampled on a logarithmic grid;
2. for each candidate s_c the best m_g and its error, read off that curve at s = s_c * m;
3. the exact error of the most promising candidates, with m_g and its neighbours.

Work arrays are (size, groups): operations run along the long axis.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64, U8, Real
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_nearest, group_table, group_unit, max_group_multiplier
from lpcompile.formats.nearest import Nearest
from lpcompile.quant.qtensor import image_scales
from lpcompile.quant.scales import SMALLEST_SCALE, top_ratio
from lpcompile.quant.stored_scales import ScaleGrid

_BLOCK_ELEMENTS = 1 << 17
_CURVE_POINTS = 48
_CURVE_LOW = 0.35  # of the group's absmax scale; below, clipping has eaten the group
_FINALISTS = 4

Index = NDArray[np.intp]


@dataclass(frozen=True)
class GroupFit:
    """Channel scales (C,) on the grid, multipliers (C, G), codes (C, K)."""

    scales: F32
    multipliers: U8
    codes: U8


@dataclass(frozen=True)
class _Block:
    """Some channels, each divided by a power of two, `units` (R,), that brings it near 1.

    Weights and importance are (size, R * G), the squared norms of the groups (R * G,).
    """

    weights: F32
    importance: F32
    energy: F32
    units: F64

    @property
    def rows(self) -> int:
        return len(self.units)

    def errors(self, approximation: F32) -> F32:
        """(R * G,) weighted squared errors of (size, R * G) values."""
        d = self.weights - approximation
        weighted = d * d
        weighted *= self.importance
        return np.asarray(weighted.sum(axis=0), np.float32)


def group_absmax_scale(w: F32, fmt: NumberFormat, size: int) -> F64:
    """(C, G) scales s of `s * grid` at which the largest magnitude of each group lands on the top level."""
    starts = np.arange(0, w.shape[1], size)
    largest = np.maximum(np.maximum.reduceat(w, starts, axis=1), -np.minimum.reduceat(w, starts, axis=1))
    return largest.astype(np.float64) / (_base_levels(fmt).top * group_unit(fmt))


def search_groups(
    w: F32, fmt: NumberFormat, size: int, grid: ScaleGrid, floors: F64, importance: F32 | None
) -> GroupFit:
    """The best channel scales and multipliers found.

    Args:
        w: (C, K) finite weights.
        fmt: a format with a group table.
        size: of a group; the last one of a row may be shorter.
        grid: the values that a channel scale may take.
        floors: (C,) least channel scales.
        importance: (K,) weights of the squared errors; None for ones.
    """
    limits = group_absmax_scale(w, fmt, size)
    parts = []
    step = max(1, _BLOCK_ELEMENTS // w.shape[1])
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        block = _block(w[rows], size, importance)
        scales, m = _search_block(block, fmt, grid, limits[rows], floors[rows])
        parts.append((scales, m))
    scales = np.concatenate([s for s, _ in parts])
    multipliers = np.concatenate([m for _, m in parts])
    return GroupFit(scales, multipliers, encode_groups(w, fmt, size, scales, multipliers))


def encode_groups(w: F32, fmt: NumberFormat, size: int, scales: F32, multipliers: U8) -> U8:
    """(C, K) codes nearest to w for given channel scales (C,) and multipliers (C, G)."""
    nearest = group_nearest(fmt)
    divisors = _int8_scales(scales, fmt)
    codes = np.empty(w.shape, np.uint8)
    step = max(1, _BLOCK_ELEMENTS // w.shape[1])
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        m = np.repeat(multipliers[rows], size, axis=1)[:, : w.shape[1]]
        codes[rows] = nearest.encode_block(w[rows] / divisors[rows, None], m)
    return codes


def _search_block(
    block: _Block, fmt: NumberFormat, grid: ScaleGrid, limits: F64, floors: F64
) -> tuple[F32, U8]:
    """Scales (R,) on the grid and multipliers (R, G)."""
    rows, groups = limits.shape
    most = max_group_multiplier(fmt)
    centres = np.maximum(limits.max(axis=1) / most, SMALLEST_SCALE)
    base = np.maximum((limits / block.units[:, None]).reshape(-1), SMALLEST_SCALE)
    ratios = np.geomspace(_CURVE_LOW, top_ratio(_base_levels(fmt)), _CURVE_POINTS)
    curve = _error_curve(block, fmt, base, ratios)

    ladder = np.maximum(grid.ladder(centres, 0.5, ratios[-1]), grid.at_least(floors))  # (n, R)
    losses = np.empty(ladder.shape)
    guesses = np.empty((len(ladder), rows * groups), np.uint8)
    log_step = np.log(ratios[1] / ratios[0])
    # Position on the curve of s = s_c * m, for all m: (most, R * G).
    offsets = (np.log(np.arange(1, most + 1))[:, None] - np.log(base * ratios[0])) / log_step + 1
    columns = np.arange(rows * groups)
    relative = ladder / block.units
    for i, scales in enumerate(relative):
        shift = np.repeat(np.log(scales) / log_step, groups)
        at = np.clip(np.rint(offsets + shift), 0, _CURVE_POINTS + 1).astype(np.intp)
        errors = curve[at, columns]
        best = errors.argmin(axis=0)
        guesses[i] = best + 1
        losses[i] = errors[best, columns].reshape(rows, groups).sum(axis=1)

    finalists = np.argsort(losses, axis=0, kind="stable")[:_FINALISTS]
    picked, m = _decide(block, fmt, relative, guesses, finalists)
    return ladder[picked, np.arange(rows)], m


def _error_curve(block: _Block, fmt: NumberFormat, base: F64, ratios: F64) -> F32:
    """(points + 2, R * G) errors at s = base * ratio; the end rows stand for all smaller and larger s."""
    levels = _base_levels(fmt)
    curve = np.empty((len(ratios) + 2, len(base)), np.float32)
    curve[0] = curve[-1] = block.energy
    unit = base * group_unit(fmt)
    for i, ratio in enumerate(ratios):
        scale = np.maximum(unit * ratio, SMALLEST_SCALE).astype(np.float32)
        curve[i + 1] = block.errors(levels.round_block(block.weights / scale) * scale)
    return curve


def _decide(
    block: _Block, fmt: NumberFormat, relative: F64, guesses: U8, finalists: Index
) -> tuple[Index, U8]:
    """Exact errors of the finalists with m, m - 1 and m + 1.

    Args:
        block: the channels.
        fmt: the format.
        relative: (n, R) candidate scales in units of the block.
        guesses: (n, R * G) the m of each group that the curve likes best.
        finalists: (finalists, R) row numbers of `relative`.

    Returns:
        The best row of `relative` for each channel, (R,), and its multipliers, (R, G).
    """
    rows = block.rows
    groups = block.weights.shape[1] // rows
    most = max_group_multiplier(fmt)
    nearest = group_nearest(fmt)
    best_loss = np.full(rows, np.inf)
    best = finalists[0].copy()
    best_m = np.ones((rows, groups), np.uint8)
    columns = np.arange(rows * groups)
    for choice in finalists:
        divisors = np.repeat(_int8_scales(relative[choice, np.arange(rows)], fmt), groups)
        quotients = block.weights / divisors
        guess = guesses[np.repeat(choice, groups), columns].astype(np.int16)
        tried = np.stack([np.clip(guess + d, 1, most).astype(np.uint8) for d in (0, -1, 1)])
        errors = np.stack([block.errors(nearest.round_block(quotients, m) * divisors) for m in tried])
        pick = errors.argmin(axis=0)
        m = tried[pick, columns].reshape(rows, groups)
        loss = errors[pick, columns].reshape(rows, groups).sum(axis=1, dtype=np.float64)
        better = loss < best_loss
        best_loss[better], best[better], best_m[better] = loss[better], choice[better], m[better]
    return best, best_m


def _block(w: F32, size: int, importance: F32 | None) -> _Block:
    rows, columns = w.shape
    groups = -(-columns // size)
    _, exponents = np.frexp(np.abs(w).max(axis=1))
    units = np.ldexp(1.0, exponents)
    padded = np.zeros((rows, groups * size), np.float32)
    padded[:, :columns] = w / units[:, None]
    weights = np.ascontiguousarray(padded.reshape(rows * groups, size).T)
    h = np.zeros(groups * size, np.float32)  # zero where a short last group was filled up
    h[:columns] = 1 if importance is None else importance
    tiled = np.tile(h.reshape(groups, size).T, (1, rows))
    return _Block(weights, tiled, (weights * weights * tiled).sum(axis=0), units)


def _int8_scales(scales: Real, fmt: NumberFormat) -> F32:
    product = image_scales(scales.astype(np.float32), group_unit(fmt))
    return np.maximum(product, np.float32(SMALLEST_SCALE))


@lru_cache(maxsize=256)
def _base_levels(fmt: NumberFormat) -> Nearest:
    """The levels of a group with a continuous scale: the finest row of the group table, for m = 1."""
    most = max_group_multiplier(fmt)
    levels = group_table(fmt)[most].astype(np.float64) / most
    return Nearest(np.where(np.isnan(fmt.table()), np.nan, levels))
