"""Channel scales that are quantised themselves. [neseem2024, notes sec. 2.4].

=========  ============================  =========================================  =====================
mode       scale                         error                                      stored, bits a scale
=========  ============================  =========================================  =====================
po2        2^round(log2 s)               a factor of sqrt(2) at most                8
dyadic-B   m * 2^e, m of B = 2..8 bits   2^-B of itself                             8 up to B = 5, else 16
linear-B   S * q, q = 1..2^B - 1         S / 2, S = max(s) / (2^B - 1)              8, and S
=========  ============================  =========================================  =====================

Eight bits are codes of `ufloat8_e4m4`, which hold scales of up to five bits exactly where the largest is less than 2^16
times the smallest; 16 bits are the upper half of a float32.

Weights are rounded afterwards with the scales that are stored, so that the error of a scale costs resolution, not gain.
"""

import re
from dataclasses import replace

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.quant.granularity import PerTensor
from lpcompile.quant.multipliers import nearest_dyadic, nearest_po2
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.short_multipliers import short_multipliers

HALF_BITS = 16
_MODE = re.compile(r"po2|(?P<kind>dyadic|linear)-(?P<bits>[2-8])", re.ASCII)


def check_mode(mode: str) -> None:
    """Refuse what is no mode.

    Raises:
        FormatError: it is none.
    """
    if _MODE.fullmatch(mode) is None:
        raise FormatError(
            f"channel scales have no mode {mode!r}", hint="it is 'po2', 'dyadic-2' to -8, or 'linear-2' to -8"
        )


def quantised_scales(scales: F32, mode: str) -> F32 | QuantizedTensor:
    """Scales as they are stored in a mode.

    Args:
        scales: (C,) positive.
        mode: of the table above.

    Returns:
        Codes, or float32 whose lower halves are zero.

    Raises:
        FormatError: no such mode.
    """
    check_mode(mode)
    found, wide = _MODE.fullmatch(mode), scales.astype(np.float64)
    assert found is not None
    bits = int(found["bits"] or 0)
    if found["kind"] == "linear":
        top = (1 << bits) - 1
        unit = np.float32(wide.max(initial=0.0) / top)
        codes = np.clip(np.rint(wide / max(float(unit), np.finfo(np.float64).tiny)), 1, top).astype(np.uint8)
        return QuantizedTensor(codes, resolve("uint8"), PerTensor(), np.asarray(unit, np.float32))
    short = nearest_dyadic(wide, bits) if bits else nearest_po2(wide)
    return short_multipliers(short) or short.astype(np.float32)


def with_quantised_scales(tensor: QuantizedTensor, mode: str) -> QuantizedTensor:
    """The tensor with its channel scales in a mode; codes and group multipliers stay.

    Args:
        tensor: a scale per channel, or integer groups.
        mode: of the table above.
    """
    stored = quantised_scales(channel_scales(tensor), mode)
    bits = 32 if isinstance(stored, QuantizedTensor) else HALF_BITS
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        return replace(tensor, scales=replace(tensor.scales, scales=stored, scale_bits=bits))
    return replace(tensor, scales=stored, scale_bits=bits)
