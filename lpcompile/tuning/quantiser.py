"""The quantiser of one layer's weights during training: codes of latent weights, and the cell of each in its table."""

from functools import lru_cache

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_table
from lpcompile.formats.group import group_unit as unit_of_groups
from lpcompile.quant.fit import layer_levels
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes, with_channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.tuning.estimators import Cells

_REACH = 160  # floors of w / s that are told apart; int8 levels end at 128
_MARGIN = 1e-3  # of a step: how far from a threshold latent weights start at least
_MOVED = 0.25  # the same of those that were not rounded to the nearest code: a small step must not undo it


class WeightQuantiser:
    """Rounds latent weights (C, K) as the planned tensor of a layer was rounded.

    Scales are those of the int8 image (of the format where it has none): w / s is what the levels are compared with.

    Args:
        tensor: (C, K) codes without zero points; scales per tensor, per row, or integer group scales.

    Attributes:
        tensor: codes of the last rounding.
        top: the largest level, Q_P of learned step sizes.
    """

    def __init__(self, tensor: QuantizedTensor) -> None:
        self.tensor = tensor
        self._levels = _levels(tensor.format, tensor.has_integer_groups)
        self.top = max(float(levels[-1]) for levels in self._levels)
        self._ends = tuple(
            np.array([levels[i] for levels in self._levels], np.float32) for i in (0, -1)
        )  # by multiplier
        scales = tensor.scales
        self._rows: np.ndarray | None = None  # the multiplier of every weight, (C, K)
        if tensor.has_integer_groups:
            assert isinstance(scales, QuantizedTensor)
            self._rows = np.asarray(tensor.granularity.expand(scales.codes, tensor.shape))

    @property
    def unit(self) -> float:
        """Scale of the int8 image over the scale that is stored."""
        fmt = self.tensor.format
        return unit_of_groups(fmt) if self.tensor.has_integer_groups else fmt.image_scale

    @property
    def scales(self) -> F32:
        """Scales of the int8 image, (C, 1), or (1, 1) for a scale per tensor."""
        stored = channel_scales(self.tensor).reshape(-1, 1)
        return np.asarray(np.multiply(stored, np.float32(self.unit), dtype=np.float32))

    @property
    def steps(self) -> F32:
        """Mean distance of neighbouring levels in units of the weights, broadcastable to (C, K)."""
        mean = [float(np.diff(levels).mean()) for levels in self._levels]
        if self._rows is None:
            return np.asarray(self.scales * np.float32(mean[0]), np.float32)
        return np.asarray(self.scales * np.array(mean, np.float32)[self._rows], np.float32)

    def round(self, w: F32, scales: F32 | None = None) -> QuantizedTensor:
        """Codes nearest to latent weights.

        Args:
            w: (C, K).
            scales: new scales of the int8 image, (C, 1) or (1, 1); they are stored as the old ones are.
        """
        if scales is not None:
            stored = (scales / np.float32(self.unit)).reshape(channel_scales(self.tensor).shape)
            self.tensor = with_channel_scales(self.tensor, np.asarray(stored, np.float32))
        self.tensor = nearest_codes(w, self.tensor)
        return self.tensor

    def cells(self, w: F32, rounded: F32) -> Cells:
        """Where latent weights lie between the levels.

        Args:
            w: (C, K).
            rounded: their values, as `round(w).dequantize()` gave them.
        """
        scales = self.scales
        x = np.asarray(w / scales, np.float32)
        value = np.asarray(rounded / scales, np.float32)
        if self.tensor.has_int8_image:
            low_at, high_at = _floor_table(self.tensor.format, self.tensor.has_integer_groups)
            floors = np.clip(np.floor(x), -_REACH, _REACH - 1).astype(np.intp) + _REACH
            if self._rows is not None:
                floors += self._rows.astype(np.intp) * (2 * _REACH)
            low, high = low_at[floors], high_at[floors]
            np.rint(value, out=value)
        else:
            levels = self._levels[0]
            at = np.clip(np.searchsorted(levels, x, side="right") - 1, 0, len(levels) - 2)
            low, high = levels[at].astype(np.float32), levels[at + 1].astype(np.float32)
        least, most = self._ends if self._rows is None else (end[self._rows] for end in self._ends)
        return Cells(x, low, high, (x >= least) & (x <= most), value)

    def start(self, w: F32) -> F32:
        """Latent weights that round to the planned codes: `w` where it does, else the nearest of the code's cell."""
        planned = self.tensor.dequantize()
        value = (planned / self.scales).astype(np.float64)
        x = w / self.scales.astype(np.float64)
        for m, levels in enumerate(self._levels):
            here = np.ones(x.shape, np.bool_) if self._rows is None else self._rows == m
            middles = np.concatenate([[-np.inf], (levels[:-1] + levels[1:]) / 2, [np.inf]])
            gaps = np.concatenate([[0.0], np.diff(levels), [0.0]])
            at = np.searchsorted(middles[1:-1], value[here])
            margin = np.where(np.searchsorted(middles[1:-1], x[here]) == at, _MARGIN, _MOVED)
            x[here] = np.clip(
                x[here], middles[at] + margin * gaps[at], middles[at + 1] - margin * gaps[at + 1]
            )
        return np.asarray(x * self.scales, np.float32)


@lru_cache(maxsize=64)
def _levels(fmt: NumberFormat, grouped: bool) -> tuple[np.ndarray, ...]:
    """Ascending levels of the int8 image (of the format where it has none); by multiplier where there are groups."""
    if not grouped:
        return (layer_levels(fmt).levels,)
    real = np.isfinite(fmt.table())
    rows = [np.unique(row[real].astype(np.float64)) for row in group_table(fmt)]
    rows[0] = rows[1]  # multiplier 0 is not used
    return tuple(rows)


@lru_cache(maxsize=64)
def _floor_table(fmt: NumberFormat, grouped: bool) -> tuple[F32, F32]:
    """Neighbouring levels by floor(x) + _REACH, and by multiplier; levels are integers, so the floor decides."""
    floors = np.arange(-_REACH, _REACH)
    low, high = [], []
    for levels in _levels(fmt, grouped):
        at = np.clip(np.searchsorted(levels, floors, side="right") - 1, 0, len(levels) - 2)
        low.append(levels[at])
        high.append(levels[at + 1])
    return np.concatenate(low).astype(np.float32), np.concatenate(high).astype(np.float32)
