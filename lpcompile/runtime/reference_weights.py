"""Stored weights as rows of int8 and a scale a row: what the bodies unpack, once more in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.base import resolve
from lpcompile.formats.group import group_table, group_unit
from lpcompile.formats.packing import unpack
from lpcompile.ir.low_rank import SIDE_INPUTS
from lpcompile.quant.side_path import SidePath, merged_image
from lpcompile.runtime.reference_call import Call

_MATRIX = ("Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Rows:
    """Weights of one layer, one row an output channel.

    Attributes:
        values: (C, K) int8, or float32 for a format without an int8 image.
        scale: (C,) float32; (1,) of dyadic layers.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32]


def decode_rows(call: Call, stored: Sequence[NDArray[Any]]) -> Rows:
    """The weights that a call reads.

    Args:
        call: of a layer.
        stored: codes, [multipliers], [tables], then the scales, or scale codes and their unit, then [side path].
    """
    assert call.format is not None
    rest = list(stored[1 : call.stored_inputs])
    multipliers = rest.pop(0) if call.group_size else None
    tables = rest.pop(0) if call.row_tables else None
    side = call.side and not call.is_dyadic  # the path of a dyadic layer is merged into nothing
    factors, rest = (rest[-len(SIDE_INPUTS) :], rest[: -len(SIDE_INPUTS)]) if side else ([], rest)
    values, scale = _values(call, stored[0], multipliers, tables), _scales(call, rest)
    if not side:
        return Rows(values, scale)
    b, a, n, unit, steps, step_unit = factors
    return Rows(*merged_image(values, scale, SidePath(b, a, n, unit, steps, step_unit)))


def _values(
    call: Call, codes: NDArray[Any], multipliers: NDArray[Any] | None, tables: NDArray[Any] | None
) -> NDArray[Any]:
    fmt, shape = call.format, tuple(call.attributes["weight_shape"])
    assert fmt is not None
    transposed = call.family.endswith(_MATRIX) or call.axis == 1
    if codes.dtype == np.int8:  # stored as the operator wants them
        return codes.T if transposed else codes.reshape(shape[0], -1)
    count = int(np.prod(shape))
    flat = unpack(codes.tobytes(), fmt.bits, count)
    rows = flat.reshape(shape[0], -1)
    if multipliers is not None:
        groups = -(-rows.shape[1] // call.group_size)
        m = nibbles(multipliers, len(rows) * groups).reshape(len(rows), groups)
        spread = np.repeat(m, call.group_size, axis=1)[:, : rows.shape[1]]
        return np.take(group_table(fmt), (spread << np.uint8(fmt.bits)) | rows)  # 16 rows of 2**bits
    if tables is not None:
        return np.take_along_axis(tables, rows.astype(np.intp), axis=1)
    image = fmt.image()
    if image is None:
        return np.take(np.nan_to_num(fmt.table()).astype(np.float32), rows)
    return np.take(image, rows)


def _scales(call: Call, stored: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    if not stored:  # dyadic layers have their scales in the requantisation
        return np.ones(1, np.float32)
    if not call.scale_codes:
        return np.asarray(stored[0], np.float32)
    codes, unit = stored
    fmt = call.format
    assert fmt is not None
    real = _scale_values(call.scale_codes, codes) * np.float32(unit)
    return np.asarray(real * np.float32(group_unit(fmt) if call.group_size else fmt.image_scale))


def _scale_values(coded: str, codes: NDArray[Any]) -> NDArray[np.float32]:
    """What codes of scales stand for, in units."""
    if coded == "b16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    fmt = {"s8": "ufloat8_e4m4", "u8": "uint8"}[coded]
    return np.asarray(resolve(fmt).table().astype(np.float32)[codes])


def nibbles(packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The first `count` 4-bit numbers of bytes, low half first."""
    return unpack(packed.tobytes(), 4, count)


def expanded(call: Call, rows: Rows) -> NDArray[np.float32]:
    """The float32 weights of DequantizeWeights, in the shape that the operator reads."""
    real = np.multiply(rows.values, rows.scale[:, None], dtype=np.float32)
    return np.asarray(real.T if call.axis == 1 else real.reshape(call.attributes["weight_shape"]))
