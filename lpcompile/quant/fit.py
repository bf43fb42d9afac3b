"""Quantise a weight matrix: scales by a rule, stored in their own format first, then the nearest codes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lpcompile.errors import CalibrationError, FormatError
from lpcompile.formats.arrays import F32, F64, U8
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.group import MULTIPLIERS, group_unit, has_group_table, max_group_multiplier
from lpcompile.formats.nearest import Nearest, nearest_of
from lpcompile.quant import scales as rules
from lpcompile.quant.granularity import PerAxis, PerGroup, PerTensor
from lpcompile.quant.group_search import encode_groups, group_absmax_scale, search_groups
from lpcompile.quant.qtensor import GROUP_SCALE_FORMAT, QuantizedTensor, image_scales
from lpcompile.quant.stored_scales import ScaleGrid, scale_grid

RULES = ("absmax", "percentile", "mse", "maxent", "l1norm", "output-mse")
LIMITED_RULES = (
    "power-of-two",
    "fixed",
)  # of the scale itself; per tensor or channel, stored as float32 or 8 bits
GRANULARITIES = ("tensor", "channel", "group")
GroupSearch = Callable[[ScaleGrid, F64], tuple[F32, U8]]
_SEARCHED = ("mse", "output-mse")
_ABOVE = 1 + 1e-6  # keeps a floor through the rounding of a product to float32
_DAMPING = 0.01  # of the mean importance: no input is wholly unimportant


@dataclass(frozen=True)
class _Rule:
    """A scale rule by its name, with the importance that belongs to it, or scales that were found elsewhere."""

    name: str
    importance: F32 | None
    found: F64 | None = None

    def scales(self, w: F32, levels: Nearest, unit: float) -> F64:
        """(R,) scales of `levels` for (R, K) weights, a level times `unit` being a value of the format; 0 for zeros."""
        if self.found is not None:
            return self.found
        if self.name in _SEARCHED:
            return rules.mse(w, levels, self.importance)
        if self.name in LIMITED_RULES:
            limited = rules.power_of_two if self.name == "power-of-two" else rules.fixed
            return limited(w, levels, unit, self.importance)
        simple = {
            "absmax": rules.absmax,
            "percentile": rules.percentile,
            "maxent": rules.maxent,
            "l1norm": rules.l1norm,
        }
        return simple[self.name](w, levels)


def fit(
    w: F32,
    fmt: NumberFormat,
    *,
    granularity: str = "channel",
    group_size: int = 32,
    rule: str = "mse",
    scale_format: str = "float32",
    importance: F32 | None = None,
    min_scale: F32 | None = None,
) -> QuantizedTensor:
    """Quantise weights.

    Args:
        w: (C, K) float32: output channels by inputs.
        fmt: format of the codes.
        granularity: "tensor", "channel" or "group" (integer group scales; rows of one group only fall back to
            "channel").
        group_size: inputs a group.
        rule: one of RULES or LIMITED_RULES.
        scale_format: of channel scales, "float32" or "ufloat8_e4m4"; a scale per tensor is float32.
        importance: (K,) second moments of the inputs, E[x_k^2], used by "output-mse".
        min_scale: (C,) least channel scales of the int8 image (of the format where it has none), so that an
            int32 bias in units of them fits.

    Returns:
        Codes of shape (C, K), granularity PerTensor(), PerAxis(0) or PerGroup(group_size, 1).

    Raises:
        FormatError: NaN, infinite or empty weights, negative ones for an unsigned format, an unknown rule,
            granularity or scale format, no group table, groups under a limited rule.
        CalibrationError: "output-mse" without usable second moments.
    """
    w = np.ascontiguousarray(w, np.float32)
    _check(w, fmt, rule, granularity)
    weight = damped_importance(importance, w.shape[1]) if rule == "output-mse" else None
    floor = _floors(w, min_scale)
    if granularity == "group" and not has_group_table(fmt):
        max_group_multiplier(fmt)  # raises, with the reason
    if granularity == "group" and w.shape[1] > group_size:
        if rule not in _SEARCHED:
            return _rule_groups(
                w, fmt, group_size, _Rule(rule, weight), scale_format, floor / group_unit(fmt)
            )
        return fit_groups(
            w,
            fmt,
            group_size,
            lambda grid, floors: search_groups(w, fmt, group_size, grid, floors, weight),
            scale_format=scale_format,
            min_scale=min_scale,
        )
    levels = layer_levels(fmt)
    if granularity == "tensor":
        flat = w.reshape(1, -1)
        tiled = None if weight is None else np.tile(weight, len(w))
        floors = np.asarray([floor.max()]) / fmt.image_scale
        scales = _channel_scales(flat, fmt, levels, _Rule(rule, tiled), "float32", floors)
        assert isinstance(scales, np.ndarray)
        return _encode(w, fmt, levels, PerTensor(), scales.reshape(()))
    stored = _channel_scales(w, fmt, levels, _Rule(rule, weight), scale_format, floor / fmt.image_scale)
    return _encode(w, fmt, levels, PerAxis(0), stored)


def fit_channels(
    w: F32,
    fmt: NumberFormat,
    wanted: F64,
    *,
    scale_format: str,
    importance: F32 | None,
    min_scale: F32 | None,
) -> QuantizedTensor:
    """Quantise with channel scales that were found elsewhere; they are still rounded to what can be stored.

    Args:
        w: (C, K) float32, contiguous.
        fmt: format of the codes.
        wanted: (C,) scales of the int8 image (of the format where it has none); 0 for rows of zeros.
        scale_format: of channel scales.
        importance: (K,) weights of the squared errors.
        min_scale: (C,) as in `fit`.
    """
    levels, floor = layer_levels(fmt), _floors(w, min_scale)
    stored = _channel_scales(
        w, fmt, levels, _Rule("mse", importance, wanted), scale_format, floor / fmt.image_scale
    )
    return _encode(w, fmt, levels, PerAxis(0), stored)


def fit_groups(
    w: F32,
    fmt: NumberFormat,
    size: int,
    search: GroupSearch,
    *,
    scale_format: str,
    min_scale: F32 | None,
) -> QuantizedTensor:
    """Quantise with integer group scales that `search` finds for a grid of scales (and their floors).

    Args:
        w: (C, K) float32, contiguous, K > size.
        fmt: a format with a group table.
        size: inputs a group.
        search: from the grid of channel scales and (C,) floors to scales (C,) and multipliers (C, G).
        scale_format: of channel scales.
        min_scale: (C,) as in `fit`.
    """
    floors = _floors(w, min_scale) / group_unit(fmt)
    levels = layer_levels(fmt)
    largest = group_absmax_scale(w, fmt, size).max(axis=1) / MULTIPLIERS * rules.top_ratio(levels)
    wanted = _usable(largest, floors, levels)
    grid = scale_grid(scale_format, float(wanted.max()))
    scales, m = search(grid, floors)
    # Rows of zeros have no scale of their own.
    scales = np.where(largest == 0, grid.at_least(wanted), scales)
    return _grouped(w, fmt, size, grid, scales, m)


def _grouped(w: F32, fmt: NumberFormat, size: int, grid: ScaleGrid, scales: F32, m: U8) -> QuantizedTensor:
    stored = QuantizedTensor(m, resolve(GROUP_SCALE_FORMAT), PerAxis(0), grid.store(scales))
    return QuantizedTensor(encode_groups(w, fmt, size, scales, m), fmt, PerGroup(size, 1), stored)


def _floors(w: F32, min_scale: F32 | None) -> F64:
    return np.zeros(len(w)) if min_scale is None else np.asarray(min_scale, np.float64) * _ABOVE


@lru_cache(maxsize=256)
def layer_levels(fmt: NumberFormat) -> Nearest:
    """What a compiled layer rounds `W / s_c` onto: the int8 image where the format has one, else its grid."""
    image = fmt.image()
    if image is None:
        return fmt.nearest
    return nearest_of(np.where(np.isnan(fmt.table()), np.nan, image.astype(np.float64)))


def _encode(
    w: F32,
    fmt: NumberFormat,
    levels: Nearest,
    granularity: PerTensor | PerAxis,
    stored: F32 | QuantizedTensor,
) -> QuantizedTensor:
    scales = stored.dequantize() if isinstance(stored, QuantizedTensor) else stored
    divisors = image_scales(scales, fmt.image_scale)
    codes = levels.encode_f32(w, granularity.expand(divisors, w.shape))
    return QuantizedTensor(codes, fmt, granularity, stored)


def _channel_scales(
    w: F32, fmt: NumberFormat, levels: Nearest, rule: _Rule, scale_format: str, floors: F64
) -> F32 | QuantizedTensor:
    """Stored scales (R,) in units of the format, by a rule, not below the floors."""
    unit = fmt.image_scale
    wanted = _usable(rule.scales(w, levels, unit) / unit, floors, levels)
    grid = scale_grid(scale_format, float(wanted.max()))
    chosen = grid.at_least(wanted)
    if rule.name in _SEARCHED and scale_format != "float32":
        least = grid.at_least(floors)
        below = np.maximum(grid.ladder(wanted, 0.97, 1.0)[0], least)
        losses = [
            rules.squared_error(w, s.astype(np.float64) * unit, levels, rule.importance)
            for s in (chosen, below)
        ]
        chosen = np.where(losses[1] < losses[0], below, chosen)
    return grid.store(chosen)


def _usable(wanted: F64, floors: F64, levels: Nearest) -> F64:
    """Scales with something sensible for rows of zeros, not below the floors.

    A row of zeros still carries a bias in units of its scale: the mean of the others gives it their
    resolution. Where zero is no level, only a tiny scale can stand for it.
    """
    alive = wanted > 0
    if (levels.levels == 0).any():
        filling = float(wanted[alive].mean()) if alive.any() else 1.0
    else:
        filling = rules.SMALLEST_SCALE
    wanted = np.where(alive, wanted, filling)
    return np.clip(np.maximum(wanted, floors), rules.SMALLEST_SCALE, 1 / rules.SMALLEST_SCALE)


def _rule_groups(
    w: F32, fmt: NumberFormat, size: int, rule: _Rule, scale_format: str, floors: F64
) -> QuantizedTensor:
    """Group scales by a rule without search, each rounded up to a multiple of the channel's."""
    levels = layer_levels(fmt)
    limits = _rule_by_group(w, fmt, size, rule, levels, group_absmax_scale(w, fmt, size))
    wanted = _usable(limits.max(axis=1) / MULTIPLIERS, floors, levels)
    grid = scale_grid(scale_format, float(wanted.max()))
    scales = grid.at_least(wanted)
    m = np.clip(np.ceil(limits / scales[:, None] - 1e-6), 1, MULTIPLIERS).astype(np.uint8)
    return _grouped(w, fmt, size, grid, scales, m)


def _rule_by_group(w: F32, fmt: NumberFormat, size: int, rule: _Rule, levels: Nearest, limits: F64) -> F64:
    """(C, G) group scales in units of the format by a rule without search; never above the absmax ones."""
    if rule.name == "absmax":
        return limits
    groups = limits.shape[1]
    padded = np.zeros((len(w), groups * size), np.float32)
    padded[:, : w.shape[1]] = w
    wanted = (
        rule.scales(padded.reshape(-1, size), levels, fmt.image_scale).reshape(limits.shape) / fmt.image_scale
    )
    return np.minimum(wanted, limits)


def _check(w: F32, fmt: NumberFormat, rule: str, granularity: str) -> None:
    if w.ndim != 2:
        raise FormatError(f"weights must be (C_out, K), not of shape {w.shape}")
    if w.size == 0:
        raise FormatError(f"weights of shape {w.shape} are empty", hint="leave this layer in float")
    if rule not in (*RULES, *LIMITED_RULES):
        known = ", ".join((*RULES, *LIMITED_RULES))
        raise FormatError(f"no scale rule is called {rule!r}", hint=f"use one of {known}")
    if rule in LIMITED_RULES and granularity == "group":
        raise FormatError(
            f"scale rule {rule!r} does not go with group scales", hint="use granularity 'channel' or 'tensor'"
        )
    if granularity not in GRANULARITIES:
        raise FormatError(
            f"no granularity is called {granularity!r}", hint="use one of " + ", ".join(GRANULARITIES)
        )
    if not (np.isfinite(w.max()) and np.isfinite(w.min())):
        raise FormatError("weights hold NaN or infinity", hint="repair the model: no format can hold them")
    if fmt.grid()[0] >= 0 and w.min() < 0:
        raise FormatError(f"{fmt.name} cannot hold negative weights", hint="use a signed format")


def damped_importance(importance: F32 | None, columns: int) -> F32:
    """(K,) what "output-mse" weights squared errors with: second moments, mean 1, none quite zero.

    Raises:
        CalibrationError: there are no usable second moments.
    """
    if importance is None:
        raise CalibrationError(
            "scale rule 'output-mse' needs second moments of the inputs",
            hint="give calibration data, or use the rule 'mse'",
        )
    h = np.asarray(importance, np.float64)
    if h.shape != (columns,) or not np.isfinite(h).all() or (h < 0).any():
        raise CalibrationError(
            f"second moments must be {columns} finite non-negative numbers", hint="check the calibration data"
        )
    mean = float(h.mean())
    if mean == 0:
        return np.ones(columns, np.float32)
    return (h / mean + _DAMPING).astype(np.float32)
