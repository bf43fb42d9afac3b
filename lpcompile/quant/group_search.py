"""Integer group scales, searched together with the channel scale.

`W^[c, k] = s_c * T[m_g][code]`, g = k // size. For each channel candidates s_c lie on the grid of stored
scales; for each of them every group takes the m_g of least (weighted) squared error. Three steps make it
fast:

1. the error of each group as a function of a continuous group scale s, sampled on a logarithmic grid that
   all m share (`error_curve`);
2. for each candidate s_c the best m_g and its error, read off that curve at s = s_c * m;
3. the exact error of the most promising candidates, with m_g and its neighbours, and of the scale that suits the
   winner's codes best.

Work arrays are (size, groups): operations run along the long axis.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64, U8, Real, frozen
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import MULTIPLIERS, group_nearest, group_table, group_unit
from lpcompile.formats.nearest import Nearest
from lpcompile.quant.error_curve import errors, group_energies, relative_errors
from lpcompile.quant.qtensor import image_scales
from lpcompile.quant.scales import SMALLEST_SCALE, top_ratio
from lpcompile.quant.stored_scales import ScaleGrid

_BLOCK_ELEMENTS = 1 << 17
_FAR = 2.0**60  # a scale so far above its channel makes all codes zero, and its square fits float32
CURVE_LOW = 0.5  # least channel scale, relative to that of the row's largest magnitude

Index = NDArray[np.intp]


def group_absmax_scale(w: F32, fmt: NumberFormat, size: int) -> F64:
    """(C, G) scales s of `s * grid` at which the largest magnitude of each group lands on the top level."""
    starts = np.arange(0, w.shape[1], size)
    largest = np.maximum(np.maximum.reduceat(w, starts, axis=1), -np.minimum.reduceat(w, starts, axis=1))
    return largest.astype(np.float64) / (_base_levels(fmt).top * group_unit(fmt))


@dataclass(frozen=True)
class Effort:
    """How much of the search is exact.

    Attributes:
        log_step: of the curves.
        finalists: channel scales whose error is computed exactly, and
        few_groups: as many more as this holds groups: the curves of a few groups are rough.
        reach: multipliers tried on either side of the curve's choice, and
        last_reach: around the winner, with the scale that suits its codes best; 0 leaves that out.
    """

    log_step: float = 0.03
    finalists: int = 4
    few_groups: int = 32
    reach: int = 1
    last_reach: int = 4


THOROUGH = Effort()
COARSE = Effort(log_step=0.06, finalists=1, few_groups=16, last_reach=3)  # to compare formats


def search_groups(
    w: F32, fmt: NumberFormat, size: int, grid: ScaleGrid, floors: F64, importance: F32 | None
) -> tuple[F32, U8]:
    """The best channel scales (C,) on the grid and multipliers (C, G) found.

    Args:
        w: (C, K) finite weights.
        fmt: a format with a group table.
        size: of a group; the last one of a row may be shorter.
        grid: the values that a channel scale may take.
        floors: (C,) least channel scales.
        importance: (K,) weights of the squared errors; None for ones.
    """
    h = np.ones(w.shape[1], np.float32) if importance is None else importance
    curves = multiplier_curves(fmt, THOROUGH.log_step)
    parts = []
    step = max(1, _BLOCK_ELEMENTS // w.shape[1])
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        curve = errors(group_energies(relative(w[rows]), size, h), curves.psi)
        parts.append(search_curve(w[rows], fmt, size, grid, floors[rows], h, curve))
    return np.concatenate([s for s, _ in parts]), np.concatenate([m for _, m in parts])


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


def search_curve(
    w: F32,
    fmt: NumberFormat,
    size: int,
    grid: ScaleGrid,
    floors: F64,
    importance: F32,
    curve: F32,
    effort: Effort = THOROUGH,
) -> tuple[F32, U8]:
    """Scales (R,) on the grid and multipliers (R, G) for error curves (P, R * G) of `multiplier_curves`."""
    channel = np.arange(len(w))
    curves = multiplier_curves(fmt, effort.log_step)
    centres = np.maximum(group_absmax_scale(w, fmt, size).max(axis=1) / MULTIPLIERS, SMALLEST_SCALE)
    ladder = np.maximum(grid.ladder(centres, CURVE_LOW, curves.top), grid.at_least(floors))  # (n, R)
    at = curves.position(ladder, centres)
    losses = np.take_along_axis(curves.losses(curve, len(w)), at, axis=0)
    block = _Block(w, fmt, size, importance)
    best = _Best(ladder[0].copy(), np.ones((len(w), block.groups), np.uint8), np.full(len(w), np.inf))
    finalists = effort.finalists + effort.few_groups // block.groups
    for choice in np.argsort(losses, axis=0, kind="stable")[:finalists]:
        scales = ladder[choice, channel]
        guess = curves.multipliers(curve, at[choice, channel])
        best.consider(scales, *block.with_multipliers(scales, guess, effort.reach))
    if effort.last_reach:
        wanted = block.least_squares_scales(best.scales, best.multipliers)
        for near in grid.around(wanted):
            scales = np.maximum(near, grid.at_least(floors))
            best.consider(scales, *block.with_multipliers(scales, best.multipliers, effort.last_reach))
    return best.scales, best.multipliers


@dataclass
class _Best:
    """The best scales (R,) so far with their multipliers (R, G) and losses (R,)."""

    scales: F32
    multipliers: U8
    losses: F64

    def consider(self, scales: F32, multipliers: U8, losses: F64) -> None:
        better = losses < self.losses
        self.scales[better], self.multipliers[better] = scales[better], multipliers[better]
        self.losses[better] = losses[better]


class _Block:
    """Some channels, each divided by a power of two that brings it near 1.

    Weights and importance are (size, R * G).
    """

    def __init__(self, w: F32, fmt: NumberFormat, size: int, importance: F32) -> None:
        rows, columns = w.shape
        self.groups = -(-columns // size)
        _, exponents = np.frexp(np.abs(w).max(axis=1))
        self._units = np.ldexp(1.0, exponents)
        self._format, self._nearest = fmt, group_nearest(fmt)
        padded = np.zeros((rows, self.groups * size), np.float32)
        padded[:, :columns] = w / self._units[:, None]
        self._weights = np.ascontiguousarray(padded.reshape(rows * self.groups, size).T)
        h = np.zeros(self.groups * size, np.float32)  # zero where a short last group was filled up
        h[:columns] = importance
        self._importance = np.tile(h.reshape(self.groups, size).T, (1, rows))

    def with_multipliers(self, scales: F32, guess: U8, reach: int) -> tuple[U8, F64]:
        """The best of the multipliers around m for each group, (R, G), and the exact loss (R,) with them."""
        divisors, quotients = self._quotients(scales)
        keys = self._nearest.keys(quotients)
        steps = sorted(range(-reach, reach + 1), key=abs)  # the guess wins a tie
        tried = np.clip(guess.reshape(-1) + np.array(steps)[:, None], 1, MULTIPLIERS).astype(np.uint8)
        found = np.empty(tried.shape, np.float32)
        d, weighted = np.empty_like(quotients), np.empty_like(quotients)
        for m, errors_of in zip(tried, found, strict=True):
            np.subtract(quotients, self._nearest.levels_at(keys, m, d), out=d)
            np.einsum("ij,ij->j", d, np.multiply(d, self._importance, out=weighted), out=errors_of)
        pick = found.argmin(axis=0)
        columns = np.arange(len(pick))
        loss = found[pick, columns] * (divisors * divisors)
        m = tried[pick, columns].reshape(-1, self.groups)
        return m, loss.reshape(-1, self.groups).sum(axis=1, dtype=np.float64)

    def least_squares_scales(self, scales: F32, multipliers: U8) -> F64:
        """(R,) the scales that suit the codes chosen with the given ones best."""
        _, quotients = self._quotients(scales)
        levels = self._nearest.levels_at(self._nearest.keys(quotients), multipliers.reshape(-1))
        weighted = levels * self._importance
        rows = (-1, self.groups)
        product = np.einsum("ij,ij->j", quotients, weighted).reshape(rows).sum(axis=1, dtype=np.float64)
        square = np.einsum("ij,ij->j", levels, weighted).reshape(rows).sum(axis=1, dtype=np.float64)
        ratio = np.divide(product, square, out=np.ones_like(product), where=square > 0)
        return np.asarray(scales * ratio)

    def _quotients(self, scales: F32) -> tuple[F32, F32]:
        relative = np.minimum(scales / self._units, _FAR)
        divisors = np.repeat(_int8_scales(relative, self._format), self.groups)
        return divisors, np.asarray(self._weights / divisors, np.float32)


@dataclass(frozen=True)
class MultiplierCurves:
    """Scales s = s_c * m on a logarithmic grid, one grid for all m.

    Attributes:
        psi: (P, bins) for `errors`.
        log_step: of the grid.
        top: the largest s_c, relative to that of which m = 15 brings the row's largest magnitude to the top level.
        offsets: (15,) distance on the grid from s_c to s_c * m.
    """

    psi: F32
    log_step: float
    top: float
    offsets: Index

    @property
    def candidates(self) -> int:
        """How many s_c lie on the grid."""
        return len(self.psi) - int(self.offsets[-1])

    def position(self, scales: Real, centres: F64) -> Index:
        """Index on the grid of channel scales (n, R), for centres (R,)."""
        ratio = np.maximum(np.asarray(scales, np.float64) / centres, CURVE_LOW)
        at = np.rint(np.log(ratio / CURVE_LOW) / self.log_step)
        return np.minimum(at, self.candidates - 1).astype(np.intp)

    def losses(self, curve: F32, rows: int) -> F64:
        """(candidates, R) errors summed over the groups of each row, with the best m for each."""
        least = curve[: self.candidates].copy()
        for offset in self.offsets[1:]:
            np.minimum(least, curve[offset : offset + self.candidates], out=least)
        return np.asarray(least.reshape(self.candidates, rows, -1).sum(axis=2, dtype=np.float64))

    def row_ratios(self, curve: F32, rows: int) -> F64:
        """(R,) the best scale of whole rows, relative to that which brings the largest magnitude to the top level."""
        first = int(self.offsets[-1])
        best = (
            curve[first:].reshape(len(curve) - first, rows, -1).sum(axis=2, dtype=np.float64).argmin(axis=0)
        )
        return np.asarray(CURVE_LOW * np.exp(best * self.log_step))

    def multipliers(self, curve: F32, at: Index) -> U8:
        """(R, G) the best m for s_c at these positions (R,)."""
        groups = curve.shape[1] // len(at)
        columns = np.arange(curve.shape[1])
        best: Index = curve[np.repeat(at, groups) + self.offsets[:, None], columns].argmin(axis=0)
        return (best + 1).astype(np.uint8).reshape(len(at), groups)


@lru_cache(maxsize=256)
def multiplier_curves(fmt: NumberFormat, log_step: float) -> MultiplierCurves:
    """The grid of a format with a group table."""
    levels = _base_levels(fmt)
    offsets = np.rint(np.log(np.arange(1, MULTIPLIERS + 1)) / log_step).astype(np.intp)
    top = top_ratio(levels)
    points = int(np.ceil(np.log(top / CURVE_LOW) / log_step)) + 1 + int(offsets[-1])
    scales = CURVE_LOW / MULTIPLIERS * np.exp(np.arange(points) * log_step) / levels.top
    return MultiplierCurves(frozen(relative_errors(levels, scales)), log_step, top, offsets)


def relative(w: F32) -> F32:
    """Rows divided by their largest magnitude."""
    largest = np.maximum(np.abs(w).max(axis=1), np.float32(SMALLEST_SCALE))
    return np.asarray(w / largest[:, None], np.float32)


def _int8_scales(scales: Real, fmt: NumberFormat) -> F32:
    product = image_scales(scales.astype(np.float32), group_unit(fmt))
    return np.maximum(product, np.float32(SMALLEST_SCALE))


@lru_cache(maxsize=256)
def _base_levels(fmt: NumberFormat) -> Nearest:
    """The levels of a group with a continuous scale: the finest row of the group table, for m = 1."""
    levels = group_table(fmt)[MULTIPLIERS].astype(np.float64) / MULTIPLIERS
    return Nearest(np.where(np.isnan(fmt.table()), np.nan, levels))
