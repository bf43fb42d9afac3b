"""Weights rounded anew under the format and the scales of a quantised tensor."""

from dataclasses import replace

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.quant.fit import layer_levels
from lpcompile.quant.group_search import encode_groups
from lpcompile.quant.multipliers import nearest_dyadic
from lpcompile.quant.qtensor import QuantizedTensor, image_scales

HALF_DIGITS = 8  # significant bits of scales that are stored in 16


def nearest_codes(w: F32, like: QuantizedTensor) -> QuantizedTensor:
    """The tensor with the codes nearest to other weights; scales and multipliers stay.

    Args:
        w: float32, of the shape of the tensor: (C, K) where it has integer group scales.
        like: without zero points, and without float group scales.

    Raises:
        FormatError: NaN; another shape; zero points.
    """
    if w.shape != like.shape:
        raise FormatError(f"weights of shape {w.shape} for codes of shape {like.shape}")
    if like.zeros is not None:
        raise FormatError(f"{like.format.name} with zero points is not rounded anew")
    if like.side is not None:
        raise FormatError("codes with a side path are not rounded anew", hint="round its main part")
    if like.has_integer_groups:
        scales = like.scales
        assert isinstance(scales, QuantizedTensor)
        size = like.granularity.size  # type: ignore[union-attr]
        if np.isnan(w).any():
            raise FormatError(
                "a value to encode is NaN", hint="no format holds NaN: look for the source of it"
            )
        return replace(like, codes=encode_groups(w, like.format, size, channel_scales(like), scales.codes))
    divisors = like.granularity.expand(image_scales(channel_scales(like), like.format.image_scale), w.shape)
    return replace(like, codes=layer_levels(like.format).encode_f32(w, divisors))


def channel_scales(tensor: QuantizedTensor) -> F32:
    """The real scales that codes are multiplied by, without integer multipliers: (), (C,) or by group."""
    scales = tensor.scales
    if tensor.has_integer_groups:
        assert isinstance(scales, QuantizedTensor)
        scales = scales.scales
    return scales.dequantize() if isinstance(scales, QuantizedTensor) else scales


def with_channel_scales(tensor: QuantizedTensor, scales: F32) -> QuantizedTensor:
    """The tensor with other real scales, each stored as the old ones are: the nearest value of their format.

    Args:
        tensor: its codes stay as they are.
        scales: positive, of the shape of `channel_scales(tensor)`.
    """
    outer = tensor.scales
    if tensor.has_integer_groups:
        assert isinstance(outer, QuantizedTensor)
        return replace(tensor, scales=replace(outer, scales=_stored(outer.scales, scales, outer.scale_bits)))
    return replace(tensor, scales=_stored(outer, scales, tensor.scale_bits))


def _stored(like: F32 | QuantizedTensor, scales: F32, bits: int) -> F32 | QuantizedTensor:
    if not isinstance(like, QuantizedTensor):
        short = nearest_dyadic(scales.astype(np.float64), HALF_DIGITS) if bits < 32 else scales
        return np.asarray(short, np.float32)
    assert isinstance(like.scales, np.ndarray)
    unit = np.asarray(like.scales, np.float64)
    levels = like.format.table() * float(unit)
    return replace(like, codes=_nearest_positive(levels, scales))


def _nearest_positive(levels: np.ndarray, scales: F32) -> np.ndarray:
    """(C,) codes of the nearest positive level, in ratio; levels ascend with their codes."""
    usable = np.flatnonzero(levels > 0)
    middles = np.sqrt(levels[usable][:-1] * levels[usable][1:])
    return usable[np.searchsorted(middles, scales.astype(np.float64))].astype(np.uint8)
