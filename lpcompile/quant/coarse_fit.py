"""Fits of one layer in many formats and group sizes, good enough to compare them, in one pass that shares work.

The weights are binned once, in the smallest groups; a format costs one matrix product for its error curves there, and
the curves of larger groups, up to whole rows, are sums of these. Scales are read off the curves; codes are nearest to
the weights, as they are in a thorough fit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat
from lpcompile.quant.error_curve import Energies, errors, group_energies, paired
from lpcompile.quant.fit import fit_channels, fit_groups, layer_levels
from lpcompile.quant.group_search import COARSE, multiplier_curves, relative, search_curve
from lpcompile.quant.qtensor import QuantizedTensor

CHANNEL = 0  # group size that stands for whole rows


@dataclass(frozen=True)
class Estimate:
    """What the curves say of a format and group size.

    Attributes:
        format: with a group table.
        size: inputs a group, or CHANNEL.
        loss: weighted squared error with the best scales, without the rounding of scales and group tables.
        curve: (P, R * G) errors that scales are read off.
    """

    format: NumberFormat
    size: int
    loss: float
    curve: F32


class CoarseFit:
    """The weights of a layer, or of some of its channels.

    Args:
        w: (C, K) float32, finite.
        importance: (K,) weights of the squared errors.
        sizes: group sizes that will be asked for, or CHANNEL.
        scale_format: of channel scales.
        min_scale: (C,) least channel scales, as in `fit`.
    """

    def __init__(
        self,
        w: F32,
        importance: F32,
        sizes: Sequence[int],
        *,
        scale_format: str = "float32",
        min_scale: F32 | None = None,
    ) -> None:
        self.w, self.importance = np.ascontiguousarray(w, np.float32), importance
        self._sizes = sorted({s for s in sizes if s != CHANNEL and s < w.shape[1]})
        self._channel = CHANNEL in sizes
        self._scale_format, self._min_scale = scale_format, min_scale
        self._largest = np.maximum(np.abs(self.w).max(axis=1), np.float32(0)).astype(np.float64)
        self._energies: dict[int, Energies] = {}
        self._relative = relative(self.w)

    def estimates(self, fmt: NumberFormat) -> Iterator[Estimate]:
        """One for each group size, the smallest first, whole rows last."""
        curves = multiplier_curves(fmt, COARSE.log_step)
        unit = (self._largest**2)[:, None]
        curve, size = None, 0
        for wanted in (*self._sizes, *([CHANNEL] if self._channel else [])):
            if curve is None or (wanted != CHANNEL and not _doubles(size, wanted)):
                size = wanted or self.w.shape[1]
                curve = errors(self._binned(size), curves.psi)
            while wanted != CHANNEL and size < wanted:
                curve = paired(curve, -(-self.w.shape[1] // size))
                size *= 2
            rows = len(self.w)
            if wanted == CHANNEL:
                curve = curve.reshape(len(curve), rows, -1).sum(axis=2)
                best = curve[int(curves.offsets[-1]) :].min(axis=0)
            else:
                best = curves.losses(curve, rows).min(axis=0)
            yield Estimate(fmt, wanted, float((best * unit[:, 0]).sum()), curve)

    def fitted(self, estimate: Estimate) -> QuantizedTensor:
        """Codes and scales."""
        fmt, size, w = estimate.format, estimate.size, self.w
        if size == CHANNEL:
            levels = layer_levels(fmt)
            ratios = multiplier_curves(fmt, COARSE.log_step).row_ratios(estimate.curve, len(w))
            return fit_channels(
                w,
                fmt,
                ratios * self._largest / levels.top,
                scale_format=self._scale_format,
                importance=self.importance,
                min_scale=self._min_scale,
            )
        return fit_groups(
            w,
            fmt,
            size,
            lambda grid, floors: search_curve(
                w, fmt, size, grid, floors, self.importance, estimate.curve, COARSE
            ),
            scale_format=self._scale_format,
            min_scale=self._min_scale,
        )

    def _binned(self, size: int) -> Energies:
        if size not in self._energies:
            self._energies[size] = group_energies(self._relative, size, self.importance)
        return self._energies[size]


def _doubles(size: int, wanted: int) -> bool:
    while size < wanted:
        size *= 2
    return size == wanted
