"""Weights of 8 bits for FP8 arithmetic: E4M3 numbers under a power of two a row, no second stage.

For layers whose outputs read few inputs: four bits leave some 20 dB of a weight, E4M3 31.5. Rounding is that of DPQ's
loop, for neighbours that nine inputs compare are alike, and errors must cancel as they do. [notes E2, E7, B2]
"""

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.quant.dual_precision import (
    FULL_SCALES,
    LEAST_FIRST_SCALE,
    STORED_BITS,
    cast8,
    first_scale,
    protected_limit,
)
from lpcompile.quant.gram_factor import GramFactor
from lpcompile.quant.granularity import PerAxis
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import arranged, row_slots

FORMAT = "float8_e4m3fn"


def eighth_weights(
    rows: F32, eighth: str = "float8_e4m3fn_240", factors: GramFactor | None = None
) -> QuantizedTensor:
    """E4M3 numbers for weights over the s1 of their row: of little output error, or the nearest ones, half to even.

    Args:
        rows: (R, K) float32, finite.
        eighth: whose full scale s1 keeps to, one of FULL_SCALES.
        factors: of the layer's Gram matrices, equal runs of rows for each; None: nearest.

    Raises:
        FormatError: weights that are not finite.
    """
    if not np.isfinite(rows).all():
        raise FormatError("weights hold NaN or infinity", hint="repair the model: no format can hold them")
    limit, fmt = protected_limit(FULL_SCALES[eighth]), resolve(FORMAT)
    s1 = np.array([first_scale(row, limit, LEAST_FIRST_SCALE) for row in rows], np.float32)
    units = np.asarray(rows / s1[:, None], np.float32)
    values = units if factors is None else _shaped(units, factors)
    return QuantizedTensor(fmt.encode_f32(values, 1.0), fmt, PerAxis(0), s1, scale_bits=STORED_BITS)


def _shaped(units: F32, factors: GramFactor) -> F32:
    """(R, K) numbers that are rounded one input after the other, with what the errors before it are worth there."""
    _, slots = row_slots(len(units), len(factors.order), None)
    values = arranged(units, slots, factors.order)
    errors, found = np.empty_like(values), np.empty_like(units)
    for k in range(values.shape[1]):
        x = values[:, k] + (factors.feedback[:, k, None, :k] @ errors[:, :k])[:, 0]
        eighths = cast8(x)
        errors[:, k] = values[:, k] - eighths
        found[slots, factors.order[:, k, None]] = eighths
    return found
