"""Nearest level of a table, exactly, at hundreds of millions of elements a second.

Between two neighbouring levels a < b stands one threshold t = (a + b) / 2. In floating point "x goes to b" is
then `x >= cut`, where `cut` is the smallest float that does: t itself where b wins the tie, else the float
after t. So the index of the nearest level is the number of cuts not above x, and it is exact for every x,
ties included.

For float32 the upper bits of x (sign, exponent, a few of the mantissa) number a bucket that holds at most one
cut: `index = base[bucket] + (x >= cut[bucket])`, two gathers and a compare.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64, U8, Real, frozen

_BLOCK_ELEMENTS = 1 << 15  # about the level 2 cache with its temporaries


def blocks(shape: tuple[int, ...], elements: int = _BLOCK_ELEMENTS) -> Iterator[tuple[int | slice, ...]]:
    """Index tuples that cut an array of this shape into pieces of about `elements` elements, in order."""
    if not shape or int(np.prod(shape)) <= elements:
        yield (slice(None),) * len(shape)
        return
    row = int(np.prod(shape[1:]))
    if row >= 2 * elements:
        for i in range(shape[0]):
            for rest in blocks(shape[1:], elements):
                yield (i, *rest)
        return
    step = max(1, elements // max(row, 1))
    for start in range(0, shape[0], step):
        yield (slice(start, start + step),)


class Nearest:
    """Nearest level of a table; a tie goes to the even code.

    Where not exactly one of two tied codes is even (tables in free order), the level nearer to zero wins. Of
    equal levels the lowest code is used, so -0 is never produced. Values beyond the ends saturate.

    Args:
        table: (2**bits,) level of each code; NaN marks a reserved code, which is never produced.
        thresholds: (number of distinct levels - 1,) where the deciding points are no midpoints.
    """

    def __init__(self, table: F64, thresholds: F64 | None = None) -> None:
        finite = np.flatnonzero(np.isfinite(table))
        levels, first = np.unique(table[finite], return_index=True)
        self.levels: F64 = frozen(levels + 0.0)  # ascending; + 0.0 makes -0 a plain 0
        self.codes: U8 = frozen(finite[first].astype(np.uint8))
        middles = (levels[:-1] + levels[1:]) / 2 if thresholds is None else thresholds
        low_odd, high_odd = self.codes[:-1] & 1, self.codes[1:] & 1
        low_wins = np.where(low_odd != high_odd, low_odd == 0, np.abs(levels[:-1]) <= np.abs(levels[1:]))
        self._cuts64: F64 = np.where(low_wins, np.nextafter(middles, np.inf), middles)
        cuts = middles.astype(np.float32)
        cuts = np.where(cuts < middles, np.nextafter(cuts, np.float32(np.inf)), cuts)
        up = np.nextafter(cuts, np.float32(np.inf))
        self._cuts32: F32 = np.where((cuts == middles) & low_wins, up, cuts).astype(np.float32)
        self._levels32: F32 = self.levels.astype(np.float32)

    @property
    def top(self) -> float:
        """The level that an absmax scale maps the largest weight to: the largest one, or the farthest one."""
        return float(self.levels[-1]) if self.levels[-1] > 0 else float(np.abs(self.levels).max())

    def encode(self, x: Real) -> U8:
        """Codes of the nearest levels, shape of x.

        Raises:
            FormatError: x holds NaN.
        """
        x = np.asarray(x)
        if x.dtype == np.float32:
            return self.encode_f32(x)
        wide = x.astype(np.float64, copy=False)
        _refuse_nan(wide)
        return self.codes[np.searchsorted(self._cuts64, wide, side="right")]

    def encode_f32(self, x: F32, scale: F32 | float | None = None) -> U8:
        """Codes of the levels nearest to the float32 quotient x / scale.

        Args:
            x: float32, any shape.
            scale: positive, broadcastable to x; None means 1.

        Raises:
            FormatError: x holds NaN.
        """
        codes = np.empty(x.shape, np.uint8)
        wide = None if scale is None else np.broadcast_to(np.asarray(scale, np.float32), x.shape)
        with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
            for at in blocks(x.shape):
                v = x[at] if wide is None else x[at] / wide[at]
                _refuse_nan(v)
                codes[at] = self._encode_block(np.asarray(v))
        return codes

    def round_block(self, x: F32) -> F32:
        """Nearest levels of a block of float32 without NaN; for blocks that fit the cache."""
        return self._levels32.take(self._index_block(x))

    def _encode_block(self, x: F32) -> U8:
        return self.codes.take(self._index_block(x))

    def _index_block(self, x: F32) -> U8:
        shift, base, cut = self._buckets
        bucket = (np.ascontiguousarray(x).view(np.uint32) >> np.uint32(shift)).astype(np.intp)
        index = base.take(bucket, mode="clip")
        index += x >= cut.take(bucket, mode="clip")
        return index

    @cached_property
    def _buckets(self) -> tuple[int, U8, F32]:
        """Shift of the bit pattern, number of cuts below each bucket, the cut inside it (inf: none)."""
        for shift in range(23, 11, -1):
            first = np.arange(1 << (32 - shift), dtype=np.uint32) << np.uint32(shift)
            last = first | np.uint32((1 << shift) - 1)
            ends = np.stack([first.view(np.float32), last.view(np.float32)])
            ends = np.where(np.isnan(ends), np.copysign(np.float32(np.inf), ends), ends)
            below = np.searchsorted(self._cuts32, ends.min(axis=0), side="right")
            within = np.searchsorted(self._cuts32, ends.max(axis=0), side="right") - below
            if within.max() <= 1:
                padded = np.append(self._cuts32, np.float32(np.inf))
                below -= ends.min(axis=0) == np.inf  # +inf passes the mark "no cut here", which is +inf too
                return shift, below.astype(np.uint8), np.where(within > 0, padded[below], np.float32(np.inf))
        raise FormatError("two levels of a table are too close to tell apart in float32")


class UniformNearest(Nearest):
    """Nearest multiple of a power of two between two ends: round half to even and clip."""

    def __init__(self, table: F64, step: float) -> None:
        super().__init__(table)
        self._per_step = np.float32(1 / step)
        self._step = np.float32(step)
        self._low = np.float32(self.levels[0])
        self._high = np.float32(self.levels[-1])
        self._mask = np.uint8(len(table) - 1)

    def round_block(self, x: F32) -> F32:
        """Nearest levels of a block of float32 without NaN."""
        steps = self._steps(x)
        return steps if self._step == 1 else np.multiply(steps, self._step, out=steps)

    def _encode_block(self, x: F32) -> U8:
        # int16 holds both the signed and the unsigned ends; the mask keeps the two's complement of `bits`.
        return self._steps(x).astype(np.int16).astype(np.uint8) & self._mask

    def _steps(self, x: F32) -> F32:
        steps = np.maximum(x, self._low)  # not clip, which takes longer for few numbers
        np.minimum(steps, self._high, out=steps)
        if self._step != 1:
            steps *= self._per_step
        return np.rint(steps, out=steps)


def nearest_of(table: F64) -> Nearest:
    """The quickest exact `Nearest` for a table."""
    codes = np.flatnonzero(np.isfinite(table))
    gaps = np.diff(np.sort(table[codes]))
    if gaps.size and gaps.min() == gaps.max() and np.frexp(gaps[0])[0] == 0.5:
        in_order = (table[codes] / gaps[0]).astype(np.int64) & (len(table) - 1)
        if np.array_equal(in_order, codes):
            return UniformNearest(table, float(gaps[0]))
    return Nearest(table)


def _refuse_nan(x: Real) -> None:
    if np.isnan(x).any():
        raise FormatError("a value to encode is NaN", hint="no format holds NaN: look for the source of it")
