"""Integer group scales: `W^ = s_c * T[m][code]`, with `m` in 1..15 for each group of weights.

`T[m] = m * image` where the image leaves room for all fifteen multipliers (`15 * max|image| <= 127`: int4,
fixp4 and smaller). Other formats are *defined* by the declared table `T[m][code] = round_half_even(m *
grid[code] * 127 / (15 * max|grid|))`: posit4, float4_e2m1fn, nf4, pot4, codebooks. Either way a row is int8,
so a layer with groups runs as an int8 layer does.

posit4 could keep exact products up to m = 7, float4_e2m1fn up to 10. Measured on groups of 32 with the scales
searched, the declared table is better, for the steps between scales are finer (weight SQNR in dB, exact ->
declared): posit4 Gaussian 19.78 -> 20.10, Laplace 19.20 -> 19.64, Student t(4) 19.24 -> 19.74; float4_e2m1fn
20.62 -> 20.77, 20.10 -> 20.30, 19.69 -> 19.90.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, I8, U8, frozen
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.nearest import Nearest

MULTIPLIERS = 15  # what four bits hold; 0 is not used
_KEYS = 1025  # 2 * floor or ceil of 2x, for x in [-128, 128]
_LEAST, _MOST = np.float32(-256), np.float32(256)


def has_group_table(fmt: NumberFormat) -> bool:
    """Whether the format can take integer group scales: it has an int8 image and at most 4 bits."""
    return fmt.bits <= 4 and fmt.image() is not None


def is_exact(fmt: NumberFormat) -> bool:
    """Whether the rows of the group table are exact multiples of the image."""
    image = fmt.image()
    if image is None or not fmt.image_exact:
        return False
    return MULTIPLIERS * int(np.abs(image.astype(np.int64)).max()) <= 127


def max_group_multiplier(fmt: NumberFormat) -> int:
    """Largest m of the group table.

    Raises:
        FormatError: the format has no group table.
    """
    _image_of(fmt)
    return MULTIPLIERS


@lru_cache(maxsize=256)
def group_table(fmt: NumberFormat) -> I8:
    """(16, 2**bits) int8: T[m][code], 0 where a code is reserved and in row 0, which is not used.

    Raises:
        FormatError: the format has no group table.
    """
    image = _image_of(fmt)
    m = np.arange(MULTIPLIERS + 1)[:, None]
    if is_exact(fmt):
        rows = m * image.astype(np.int64)
    else:
        values = np.nan_to_num(fmt.table())
        rows = np.rint(m * values * 127 / (MULTIPLIERS * fmt.max)).astype(np.int64)
    return frozen(rows.astype(np.int8))


@lru_cache(maxsize=256)
def group_levels(fmt: NumberFormat) -> F32:
    """(17,) float32: n for each of 16 codes, and d, so that `T[m][code] = round_half_even(m * n[code] / d)` in float32.

    For integer levels that is proven: m * n is exact, a quotient that is no tie is 1 / (2 d) >= 2^-12 or more from one,
    and a tie is exact. For others it is looked at here.

    Raises:
        FormatError: the format has no group table, or one that this formula does not give.
    """
    table = group_table(fmt)
    exact = is_exact(fmt)
    values = _image_of(fmt) if exact else np.nan_to_num(fmt.table()) * 127
    levels = np.zeros(17, np.float32)
    levels[: len(values)] = values
    levels[16] = 1 if exact else MULTIPLIERS * fmt.max
    m = np.arange(MULTIPLIERS + 1, dtype=np.float32)[:, None]
    if not np.array_equal(np.rint(m * levels[: len(values)] / levels[16]), table):
        raise FormatError(f"the group table of {fmt.name} is not that of its levels")
    return frozen(levels)


def group_unit(fmt: NumberFormat) -> float:
    """`T[m][code] * group_unit` is the value m * grid[code] (nearly, where T is not exact)."""
    return fmt.image_scale if is_exact(fmt) else MULTIPLIERS * fmt.max / 127


class GroupNearest:
    """Nearest level of row m of a group table, for all m at once.

    Rows are int8, so every threshold is a multiple of 1/2: floor(2x) + ceil(2x) tells x apart from each of
    them, ties included, and one look-up in a (16, 1025) table rounds.
    """

    def __init__(self, fmt: NumberFormat) -> None:
        table = group_table(fmt)
        points = (np.arange(_KEYS, dtype=np.float64) - _KEYS // 2) / 4
        reserved = np.isnan(fmt.table())
        codes = np.zeros((len(table), _KEYS), np.uint8)
        for m in range(1, MULTIPLIERS + 1):
            codes[m] = Nearest(np.where(reserved, np.nan, table[m].astype(np.float64))).encode(points)
        rows = np.take_along_axis(table, codes.astype(np.intp), axis=1)
        self._codes: U8 = frozen(codes.reshape(-1))
        self._levels: F32 = frozen(rows.reshape(-1).astype(np.float32))

    def encode_block(self, x: F32, m: U8) -> U8:
        """Codes of the levels of row m nearest to x; m is broadcastable to x, which holds no NaN."""
        return self._codes.take(self._at(x, self.rows(m)))

    def round_block(self, x: F32, m: U8) -> F32:
        """Levels of row m nearest to x; m is broadcastable to x, which holds no NaN."""
        return self.round_at(x, self.rows(m))

    def rows(self, m: U8) -> F32:
        """What `round_at` finds row m by."""
        return m.astype(np.float32) * np.float32(_KEYS) + np.float32(_KEYS // 2)  # exact: below 2**24

    def round_at(self, x: F32, rows: F32) -> F32:
        """The same as `round_block` with `rows` of m."""
        return self._levels.take(self._at(x, rows))

    def keys(self, x: F32) -> NDArray[np.intp]:
        """What `levels_at` finds the levels nearest to x by, for every m."""
        return _floor_and_ceiling(x).astype(np.intp)

    def levels_at(self, keys: NDArray[np.intp], m: U8, out: F32 | None = None) -> F32:
        """Levels of row m for keys of values; m is broadcastable to them."""
        at = keys + (m.astype(np.intp) * _KEYS + _KEYS // 2)
        return self._levels.take(at, out=out, mode="clip")

    def _at(self, x: F32, rows: F32) -> NDArray[np.intp]:
        key = _floor_and_ceiling(x)
        key += rows
        return key.astype(np.intp)


def _floor_and_ceiling(x: F32) -> F32:
    """floor(2x) + ceil(2x); calls of ufuncs alone, for many x are short."""
    twice = np.maximum(x + x, _LEAST)
    np.minimum(twice, _MOST, out=twice)
    key: F32 = np.floor(twice)
    key += np.ceil(twice, out=twice)
    return key


@lru_cache(maxsize=256)
def group_nearest(fmt: NumberFormat) -> GroupNearest:
    """The rounding onto the group table of a format."""
    return GroupNearest(fmt)


def _image_of(fmt: NumberFormat) -> I8:
    image = fmt.image()
    if image is None or fmt.bits > 4:
        raise FormatError(
            f"{fmt.name} takes no integer group scales",
            hint="they need a format of at most 4 bits with an int8 image; use granularity 'channel'",
        )
    return image
