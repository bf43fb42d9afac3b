"""The nearest of the 16 *expanded* levels of a group, and the group scales whose levels fit its weights best.

After INT4 -> FP8 the levels of a group are not evenly spaced (errors of 1/17 at most), so rounding to the nearest
integer is not rounding to the nearest level. A code is the number of cuts (midpoints) below the value, ties to the
smaller magnitude. [notes 4.4 and 7: level-aware rounding and scale search]
"""

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32
from lpcompile.quant.dual_precision import (
    LOW,
    SMALLEST,
    Stages,
    bfloat16,
    expanded_levels,
    grouped,
)

FACTORS = np.linspace(0.70, 1.00, 31)
_BLOCK_ELEMENTS = 1 << 16


def cuts_of(levels: F32) -> F32:
    """(..., 15) of levels (..., 16): a value takes the i-th code from below where i cuts are below it."""
    middles = (levels[..., :-1] + levels[..., 1:]) / 2
    below = np.arange(15) < -LOW  # between codes of which the upper one is nearer to zero, a tie goes up
    return np.where(below, np.nextafter(middles, np.float32(-np.inf)), middles).astype(np.float32)


def places(values: F32, cuts: F32) -> NDArray[np.uint8]:
    """0..15, the place of the nearest level: values (...,) against cuts (15, ...)."""
    found = np.zeros(np.broadcast_shapes(values.shape, cuts.shape[1:]), np.uint8)
    for cut in cuts:
        found += values > cut
    return found


def searched_scales(stages: Stages, importance: F32 | None = None) -> F32:
    """(R, G) s2 times the factor of 0.70..1.00 whose expanded levels lie nearest to the weights of the group.

    Args:
        stages: weights and the scales to start from.
        importance: (R, K) or (K,) weights of the squared errors; None: all alike.
    """
    size, (rows, columns) = stages.size, stages.units.shape
    weights = np.ones((1, columns), np.float32) if importance is None else np.atleast_2d(importance)
    weights = grouped(np.asarray(weights, np.float32), size)
    values = grouped(stages.units, size)
    found = np.empty_like(stages.scales)
    step = max(1, _BLOCK_ELEMENTS // (values.shape[1] * size))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        own = weights if len(weights) == 1 else weights[part]
        found[part] = _best(values[part], stages.scales[part], own)
    return found


def _best(values: F32, scales: F32, weights: F32) -> F32:
    best, least = scales, np.full(scales.shape, np.inf, np.float32)
    for factor in FACTORS[::-1]:  # of equal ones the largest
        tried = np.maximum(bfloat16(scales * np.float32(factor)), np.finfo(np.float32).tiny)
        levels = expanded_levels(tried)
        at = places(values, np.moveaxis(cuts_of(levels), -1, 0)[..., None])
        errors = values - np.take_along_axis(levels, at.astype(np.intp), axis=2)
        loss = np.einsum("rgk,rgk,rgk->rg", errors, errors, np.broadcast_to(weights, errors.shape))
        better = loss < least
        best, least = np.where(better, tried, best), np.where(better, loss, least)
    return np.asarray(np.where(np.abs(values).max(axis=2) > 0, best, SMALLEST), np.float32)
