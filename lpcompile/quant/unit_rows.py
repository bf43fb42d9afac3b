"""A layer's weights in units of their steps, arranged for work on one input of all rows at a time.

The output error of a row is tr(e H e^T) with e in real units or in steps: a factor for each row. So codes are found in
steps, where levels are small integers (the int8 image), or numbers of the format's grid where it has no image.

Arrays are (G, K, P): Gram matrices, inputs, rows of that matrix. One input of all rows lies together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, U8, frozen
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import MULTIPLIERS, group_nearest, group_table, group_unit
from lpcompile.quant.fit import layer_levels
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.quant.qtensor import QuantizedTensor, image_scales
from lpcompile.quant.scales import SMALLEST_SCALE

Index = NDArray[np.intp]
_ORIGIN = 128  # where 0 is in a table over int8
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Rows over their steps; `unit_rows` makes one.

    Attributes:
        like: the tensor whose scales and levels are used.
        values: (G, K, P) the real weights in steps.
        used: (G,) which of the layer's Gram matrices they are.
        slots: (G, P) row of each column; where a matrix has fewer rows than another, its first one again.
        order: (G, K) the inputs in the order of the K axis; None for the natural one.
        multipliers: (G, K, P) m of each element where the tensor has integer groups.
        nearest: the levels.
    """

    like: QuantizedTensor
    values: F32
    used: Index
    slots: Index
    order: Index | None
    multipliers: U8 | None

    def round(self, k: int, x: F32) -> F32:
        """Levels nearest to values (G, P) of the k-th input."""
        return self._rounding(k, x)

    @cached_property
    def _rounding(self) -> Callable[[int, F32], F32]:
        """`round`, which is called for every input: what all inputs share is found once."""
        if self.multipliers is None:
            round_block = layer_levels(self.like.format).round_block
            return lambda _, x: round_block(x)
        nearest = group_nearest(self.like.format)
        rows = nearest.rows(self.multipliers)
        return lambda k, x: nearest.round_at(x, rows[:, k])

    def levels(self) -> F32:
        """(G, K, P) levels of the codes of `like`."""
        if self.like.has_int8_image:
            return self._arranged(self.like.int8_image()[0]).astype(np.float32)
        return self._arranged(self.like.format.decode(self.like.codes))

    def towards(self, levels: F32) -> F32:
        """(G, K, P) the level next to each of these on the side of the real weight; itself at the end of the range."""
        up = self.values > levels
        if self.multipliers is None:
            known = layer_levels(self.like.format).levels.astype(np.float32)
            at = np.searchsorted(known, levels) + np.where(up, 1, -1)
            return known[np.clip(at, 0, len(known) - 1)]
        steps = _group_neighbours(self.like.format)
        return steps[up.astype(np.intp), self.multipliers, levels.astype(np.intp) + _ORIGIN]

    def tensor(self, levels: F32) -> QuantizedTensor:
        """The tensor with other codes, given by their levels (G, K, P)."""
        if self.multipliers is not None:
            codes = group_nearest(self.like.format).encode_block(levels, self.multipliers)
        else:
            codes = layer_levels(self.like.format).encode_f32(levels)
        return replace(self.like, codes=self.restored(codes))

    def restored(self, arranged: U8) -> U8:
        """(R, K) of something (G, K, P)."""
        rows, columns = self.like.shape
        found = np.empty((rows, columns), arranged.dtype)
        if self.order is None:
            found[self.slots] = arranged.transpose(0, 2, 1)
        else:
            found[self.slots[:, :, None], self.order[:, None, :]] = arranged.transpose(0, 2, 1)
        return found

    def _arranged(self, rows: NDArray[_T]) -> NDArray[_T]:
        return arranged(rows, self.slots, self.order)


def unit_rows(
    rows: F32, like: QuantizedTensor, matrices: int, groups: Index | None = None, order: Index | None = None
) -> UnitRows:
    """Arrange a layer's rows.

    Args:
        rows: (R, K) float32, finite.
        like: of that shape, without zero points and float group scales.
        matrices: number of Gram matrices.
        groups: (R,) the matrix of each row; None for equal runs of rows.
        order: (matrices, K) inputs in the wanted order.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales; rows are no whole number for each matrix.
    """
    _check(rows, like)
    used, slots = row_slots(len(rows), matrices, groups)
    ranks = None if order is None else order[used]
    m = None
    if like.has_integer_groups:
        assert isinstance(like.scales, QuantizedTensor)
        m = arranged(like.granularity.expand(like.scales.codes, like.shape), slots, ranks)
    values = arranged(rows / row_steps(like)[:, None], slots, ranks)
    return UnitRows(like, values, used, slots, ranks, m)


def row_steps(tensor: QuantizedTensor) -> F32:
    """(R,) real size of one unit of the levels of each row."""
    unit = group_unit(tensor.format) if tensor.has_integer_groups else tensor.format.image_scale
    steps = np.maximum(image_scales(channel_scales(tensor), unit), np.float32(SMALLEST_SCALE))
    return np.ascontiguousarray(np.broadcast_to(steps, (len(tensor.codes),)))


def arranged(rows: NDArray[_T], slots: Index, order: Index | None) -> NDArray[_T]:
    """(R, K) as (G, K, P), contiguous."""
    if order is None:
        return np.ascontiguousarray(rows[slots].transpose(0, 2, 1))
    if len(slots) == 1:
        return np.asarray(np.ascontiguousarray(rows[slots[0]].T).take(order[0], axis=0)[None])
    return np.ascontiguousarray(rows[slots[:, :, None], order[:, None, :]].transpose(0, 2, 1))


def row_slots(rows: int, matrices: int, groups: Index | None) -> tuple[Index, Index]:
    """The Gram matrices that rows use, (G,), and the rows of each, (G, P): its first one again where it has fewer.

    Raises:
        FormatError: rows are no whole number for each matrix; groups are no indices of matrices.
    """
    if groups is None:
        if rows % matrices:
            raise FormatError(f"{rows} rows are no whole number for each of {matrices} Gram matrices")
        return np.arange(matrices), np.arange(rows).reshape(matrices, -1)
    if groups.shape != (rows,) or (rows and not 0 <= groups.min() <= groups.max() < matrices):
        raise FormatError(f"groups must be {rows} indices of {matrices} Gram matrices")
    used, of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.argsort(of, kind="stable")
    first = np.cumsum(counts) - counts
    slots = np.repeat(by_group[first][:, None], counts.max(), axis=1)
    slots[of[by_group], np.arange(rows) - first[of[by_group]]] = by_group
    return used, slots


@lru_cache(maxsize=256)
def _group_neighbours(fmt: NumberFormat) -> F32:
    """(2, 16, 256) the next lower and the next higher level of row m of the group table, by m and level."""
    usable = ~np.isnan(fmt.table())
    found = np.zeros((2, MULTIPLIERS + 1, 2 * _ORIGIN), np.float32)
    for m, row in enumerate(group_table(fmt)):
        known = np.unique(row[usable])
        at = known.astype(np.intp) + _ORIGIN
        found[0, m, at] = known[np.maximum(np.arange(len(known)) - 1, 0)]
        found[1, m, at] = known[np.minimum(np.arange(len(known)) + 1, len(known) - 1)]
    return frozen(found)


def _check(rows: F32, like: QuantizedTensor) -> None:
    if rows.shape != like.shape:
        raise FormatError(f"weights of shape {rows.shape} for codes of shape {like.shape}")
    if like.zeros is not None:
        raise FormatError(f"{like.format.name} with zero points is not rounded anew")
    if like.side is not None:
        raise FormatError("codes with a side path are not rounded anew", hint="round its main part")
    if isinstance(like.granularity, PerGroup) and not like.has_integer_groups:
        raise FormatError("float group scales are not rounded anew", hint="use integer group scales")
    if not np.isfinite(rows).all():
        raise FormatError("weights hold NaN or infinity", hint="repair the model: no format can hold them")
