"""How stored weights become int8 inside a function body: nibbles -> table -> int8, all constant, folded at load.

Only ops that every ONNX Runtime since opset 13 has for uint8 are used: no INT4 Cast (missing before 1.21), no
BitwiseAnd (opset 18), no int8 Sub. [architecture 3.1 and 3.2]
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_table, group_unit
from lpcompile.ir.function import FunctionBuilder, ints

ROW_TABLES = "tables"


@dataclass(frozen=True, slots=True)
class Storage:
    """How the weights of one layer are stored, as far as the body has to know.

    Attributes:
        format: of the codes.
        group_size: inputs that share an integer multiplier; 0 for none.
        scale_codes: channel scales are `ufloat8_e4m4` codes times one float.
        row_tables: every output channel has its own 16-entry int8 table.
        transposed: codes are stored (C_out, K) but the operator wants (K, C_out).
    """

    format: NumberFormat
    group_size: int = 0
    scale_codes: bool = False
    row_tables: bool = False
    transposed: bool = False

    @property
    def image_unit(self) -> float:
        """What one unit of the int8 weights is worth in units of the channel scale; int8 stands for itself."""
        if self.group_size:
            return group_unit(self.format)
        return self.format.image_scale if self.format.image() is not None else 1.0

    @property
    def packed(self) -> bool:
        """Two codes a byte."""
        return self.format.bits <= 4

    @property
    def label(self) -> str:
        """Part of the function's name: format and layout."""
        name = self.format.name
        if ":" in name:  # a learned codebook: its table is not an identifier
            name = name.replace(":", "_")
        parts = [name]
        if self.group_size:
            parts.append(f"g{self.group_size}")
        if self.scale_codes:
            parts.append("s8")
        if self.row_tables:
            parts.append("rows")
        return "_".join(parts)

    @property
    def inputs(self) -> list[str]:
        """Names of the function inputs that hold the stored weights, in order."""
        names = ["codes"]
        if self.group_size:
            names.append("multipliers")
        if self.row_tables:
            names.append(ROW_TABLES)
        return [*names, *(["scale_codes", "scale_unit"] if self.scale_codes else ["w_scale"])]


def unpack(b: FunctionBuilder, packed: str, count: str) -> str:
    """Nibbles of a uint8 tensor, low one first, as int32 of length `count`."""
    four = b.constant(np.array(4, np.uint8))
    high = b.op("BitShift", packed, four, direction="RIGHT")
    low = b.op("BitShift", b.op("BitShift", packed, four, direction="LEFT"), four, direction="RIGHT")
    column = b.constant(np.array([-1, 1], np.int64))
    pairs = b.op("Concat", b.op("Reshape", low, column), b.op("Reshape", high, column), axis=1)
    flat = b.op("Reshape", pairs, b.constant(np.array([-1], np.int64)))
    zero = b.constant(np.array([0], np.int64))
    return b.op("Cast", b.op("Slice", flat, zero, count), to=6)


def weights_int8(b: FunctionBuilder, storage: Storage) -> str:
    """The int8 image of the stored weights in the shape that the operator wants."""
    if not storage.packed:
        return "codes"  # the image itself is stored, as the operator wants it
    shape = b.attribute("weight_shape")
    codes = unpack(b, "codes", b.attribute("code_count"))
    if storage.group_size:
        levels = b.constant(np.ascontiguousarray(group_table(storage.format), np.int8).reshape(-1))
        index = b.op("Add", codes, _multiplier_offsets(b, storage.group_size, storage.format.bits))
    elif storage.row_tables:
        levels = b.op("Reshape", ROW_TABLES, b.constant(np.array([-1], np.int64)))
        index = b.op("Add", codes, _row_offsets(b))
    else:
        levels, index = b.constant(np.asarray(storage.format.image(), np.int8)), codes
    w8 = b.op("Reshape", b.op("Gather", levels, index), shape)
    return b.op("Transpose", w8, perm=[1, 0]) if storage.transposed else w8


def weights_float(b: FunctionBuilder, storage: Storage) -> str:
    """Values of a format without an int8 image (float8, posit with es >= 1) as float32, still to be scaled."""
    codes = unpack(b, "codes", b.attribute("code_count")) if storage.packed else b.op("Cast", "codes", to=6)
    table = b.constant(np.nan_to_num(storage.format.table()).astype(np.float32))
    values = b.op("Reshape", b.op("Gather", table, codes), b.attribute("weight_shape"))
    return b.op("Transpose", values, perm=[1, 0]) if storage.transposed else values


def _multiplier_offsets(b: FunctionBuilder, group_size: int, bits: int) -> str:
    """2**bits * m_g for every code, flat; the last group of a row may be short."""
    multipliers = unpack(b, "multipliers", b.attribute("group_count"))
    rows_groups_one = b.attribute("group_shape")  # (C_out, G, 1)
    rows_inputs = b.attribute("row_shape")  # (C_out, G * group_size)
    rows = b.op(
        "Reshape", b.op("Mul", multipliers, b.constant(np.array(1 << bits, np.int32))), rows_groups_one
    )
    spread = b.op("Expand", rows, b.constant(np.array([1, 1, group_size], np.int64)))
    zero = b.constant(np.array([0], np.int64))
    used = b.op(
        "Slice",
        b.op("Reshape", spread, rows_inputs),
        zero,
        b.attribute("row_length"),
        b.constant(np.array([1], np.int64)),
    )
    return b.op("Reshape", used, b.constant(np.array([-1], np.int64)))


def _row_offsets(b: FunctionBuilder) -> str:
    """16 * row for every code, flat."""
    rows = b.op(
        "Reshape", b.op("Constant", value_ints=ints("row_offsets")), b.constant(np.array([-1, 1], np.int64))
    )
    length = b.op("Concat", b.constant(np.array([1], np.int64)), b.attribute("row_length"), axis=0)
    spread = b.op("Expand", b.op("Cast", rows, to=6), length)
    return b.op("Reshape", spread, b.constant(np.array([-1], np.int64)))


def channel_scale(b: FunctionBuilder, storage: Storage) -> str:
    """The float32 scale of each output channel.

    A `ufloat8_e4m4` code c stands for (16 + (c & 15)) * 2^(c >> 4), at most 31 * 2^15: exact in float32, so that the
    scale is the same bits on every machine.
    """
    if not storage.scale_codes:
        return "w_scale"
    four = b.constant(np.array(4, np.uint8))
    exponent = b.op("Cast", b.op("BitShift", "scale_codes", four, direction="RIGHT"), to=12)
    low = b.op("BitShift", b.op("BitShift", "scale_codes", four, direction="LEFT"), four, direction="RIGHT")
    mantissa = b.op("Add", b.op("Cast", low, to=6), b.constant(np.array(16, np.int32)))
    whole = b.op("BitShift", b.op("Cast", mantissa, to=12), exponent, direction="LEFT")
    scale = b.op("Mul", b.op("Cast", whole, to=1), "scale_unit")
    unit = storage.image_unit
    return scale if unit == 1 else b.op("Mul", scale, b.constant(np.array(unit, np.float32)))
