"""Codes of weights whose neighbouring products could leave int16, exchanged for the nearest whose products do not."""

from dataclasses import replace

import numpy as np

from lpcompile.formats.arrays import F32, F64, I32, U8
from lpcompile.formats.group import group_table
from lpcompile.quant.accumulators import LARGEST_CODE
from lpcompile.quant.neighbours import Order, pair_limit, pair_sums, pairs_saturate
from lpcompile.quant.qtensor import QuantizedTensor

_CHUNK = 1 << 22  # of sums that are compared at a time
_NEVER = 1 << 20  # no sum with it is within a limit


def within_int16(
    tensor: QuantizedTensor, rows: F32, order: Order, largest_code: int = LARGEST_CODE
) -> QuantizedTensor | None:
    """The tensor with the codes of saturating neighbours exchanged for the nearest that do not; None: there are none.

    Args:
        tensor: (R, K) with an int8 image.
        rows: (R, K) what it stands for.
        order: (K,) columns as the kernel goes through them.
        largest_code: of the inputs.
    """
    limit = pair_limit(largest_code)
    w8, scale = tensor.int8_image()
    at, pair = np.nonzero(np.abs(pair_sums(w8.astype(np.int16), order)) > limit)
    if not len(at):
        return tensor
    first, second = order[2 * pair], order[2 * pair + 1]
    units = np.broadcast_to(scale.reshape(-1), (len(w8),)).astype(np.float64)
    divisors = np.where(units > 0, units, 1.0)[at]
    codes = tensor.codes.copy()
    a, b = _images(tensor, at, first), _images(tensor, at, second)
    x, y = rows[at, first] / divisors, rows[at, second] / divisors
    step = max(1, _CHUNK // a.shape[1] ** 2)
    for start in range(0, len(at), step):
        part = slice(start, start + step)
        found = _nearest_pairs(a[part], b[part], x[part], y[part], limit)
        codes[at[part], first[part]], codes[at[part], second[part]] = found
    mended = replace(tensor, codes=codes)
    return None if pairs_saturate(mended.int8_image()[0], order, largest_code) else mended


def _nearest_pairs(a: I32, b: I32, x: F64, y: F64, limit: int) -> tuple[U8, U8]:
    """Codes of two weights each that come nearest to them within the limit.

    Args:
        a: (P, codes) what every code makes of the first weight.
        b: the same of the second.
        x: (P,) the first weight, in units of these.
        y: the second.
        limit: of |a + b|.
    """
    errors = (
        np.square(a - x[:, None], dtype=np.float32)[:, :, None]
        + np.square(b - y[:, None], dtype=np.float32)[:, None, :]
    )
    sums = a[:, :, None] + b[:, None, :]
    errors[np.abs(sums) > limit] = np.inf
    best = errors.reshape(len(a), -1).argmin(axis=1)
    return (best // b.shape[1]).astype(np.uint8), (best % b.shape[1]).astype(np.uint8)


def _images(tensor: QuantizedTensor, at: Order, columns: Order) -> I32:
    """What each code would be in the int8 image at places (at, columns), (P, codes); _NEVER where it is none."""
    count = 1 << tensor.format.bits
    if type(tensor) is not QuantizedTensor or tensor.side is not None:
        of_codes = [
            replace(tensor, codes=np.full_like(tensor.codes, code)).int8_image()[0][at, columns]
            for code in range(count)
        ]
        found = np.stack(of_codes, axis=1).astype(np.int32)
    elif tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        multipliers = tensor.granularity.expand(tensor.scales.codes, tensor.shape)[at, columns]
        found = group_table(tensor.format)[multipliers].astype(np.int32)
    else:
        image = tensor.format.image()
        assert image is not None
        found = np.tile(image.astype(np.int32), (len(at), 1))
        if tensor.zeros is not None:
            zeros = tensor.granularity.expand(tensor.zeros.astype(np.int32), tensor.shape)
            found -= np.broadcast_to(zeros, tensor.shape)[at, columns][:, None]
            found[(found < -128) | (found > 127)] = _NEVER
    found[:, ~np.isfinite(tensor.format.table())] = _NEVER  # reserved codes
    return found
