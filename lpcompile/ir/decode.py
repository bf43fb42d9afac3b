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
        straddling: a byte may hold codes of two rows or groups (an odd number of inputs), so that its two codes
            need different tables.
    """

    format: NumberFormat
    group_size: int = 0
    scale_codes: bool = False
    row_tables: bool = False
    transposed: bool = False
    straddling: bool = False

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
        if self.straddling:
            parts.append("odd")
        return "_".join(parts)

    @property
    def inputs(self) -> list[str]:
        """Names of the function inputs that hold the stored weights and their scales, in order."""
        return [*self.integer_inputs, *(["scale_codes", "scale_unit"] if self.scale_codes else ["w_scale"])]

    @property
    def integer_inputs(self) -> list[str]:
        """Those inputs that the int8 weights come from."""
        names = ["codes"]
        if self.group_size:
            names.append("multipliers")
        if self.row_tables:
            names.append(ROW_TABLES)
        return names


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
    """The int8 image of the stored weights in the shape that the operator wants.

    A byte of two codes is looked up at once: one Gather of pairs loads 4 times faster than taking nibbles apart.
    """
    if not storage.packed:
        return "codes"  # the image itself is stored, as the operator wants it
    flat = _look_up_codes(b, storage) if storage.straddling else _look_up_pairs(b, storage)
    w8 = b.op("Reshape", flat, b.attribute("weight_shape"))
    return b.op("Transpose", w8, perm=[1, 0]) if storage.transposed else w8


def _tables(b: FunctionBuilder, storage: Storage) -> str:
    """(R, 16) int8 levels by code: one row for each multiplier, each output channel, or one in all."""
    if storage.row_tables:
        return ROW_TABLES
    if storage.group_size:
        table = group_table(storage.format)
    else:
        image = storage.format.image()
        assert image is not None
        table = np.asarray(image)[None, :]
    wide = np.zeros((len(table), 16), np.int8)  # formats of 2 and 3 bits use the first columns
    wide[:, : table.shape[1]] = table
    return b.constant(wide)


def _look_up_pairs(b: FunctionBuilder, storage: Storage) -> str:
    """Flat int8 weights; table row and byte give two of them: P[256 * row + byte] = (T[row, low], T[row, high])."""
    table = _tables(b, storage)
    low = b.op("Reshape", table, b.constant(np.array([-1, 1, 16, 1], np.int64)))
    high = b.op("Reshape", table, b.constant(np.array([-1, 16, 1, 1], np.int64)))
    low = b.op("Expand", low, b.constant(np.array([1, 16, 1, 1], np.int64)))
    high = b.op("Expand", high, b.constant(np.array([1, 1, 16, 1], np.int64)))
    pairs = b.op("Reshape", b.op("Concat", low, high, axis=3), b.constant(np.array([-1, 2], np.int64)))
    index = b.op("Cast", "codes", to=6)
    if storage.group_size:
        index = b.op("Add", index, _multiplier_offsets(b, storage.group_size // 2, 256))
    elif storage.row_tables:
        index = b.op("Add", index, _row_offsets(b, 256))
    flat = b.op("Reshape", b.op("Gather", pairs, index), b.constant(np.array([-1], np.int64)))
    if storage.group_size or storage.row_tables:
        return flat
    return b.op(
        "Slice", flat, b.constant(np.array([0], np.int64)), b.attribute("code_count")
    )  # one code too many


def _look_up_codes(b: FunctionBuilder, storage: Storage) -> str:
    """Flat int8 weights, code by code."""
    codes = unpack(b, "codes", b.attribute("code_count"))
    levels = b.op("Reshape", _tables(b, storage), b.constant(np.array([-1], np.int64)))
    offsets = _multiplier_offsets(b, storage.group_size, 16) if storage.group_size else _row_offsets(b, 16)
    return b.op("Gather", levels, b.op("Add", codes, offsets))


def weights_float(b: FunctionBuilder, storage: Storage) -> str:
    """Values of a format without an int8 image (float8, posit with es >= 1) as float32, still to be scaled."""
    codes = unpack(b, "codes", b.attribute("code_count")) if storage.packed else b.op("Cast", "codes", to=6)
    table = b.constant(np.nan_to_num(storage.format.table()).astype(np.float32))
    values = b.op("Reshape", b.op("Gather", table, codes), b.attribute("weight_shape"))
    return b.op("Transpose", values, perm=[1, 0]) if storage.transposed else values


def _multiplier_offsets(b: FunctionBuilder, spread_over: int, stride: int) -> str:
    """`stride` * m_g for each of the `spread_over` codes or bytes of a group, flat; a row's last group may be short."""
    multipliers = unpack(b, "multipliers", b.attribute("group_count"))
    rows_groups_one = b.attribute("group_shape")  # (C_out, G, 1)
    rows_inputs = b.attribute("row_shape")  # (C_out, G * spread_over)
    rows = b.op("Reshape", b.op("Mul", multipliers, b.constant(np.array(stride, np.int32))), rows_groups_one)
    spread = b.op("Expand", rows, b.constant(np.array([1, 1, spread_over], np.int64)))
    zero = b.constant(np.array([0], np.int64))
    used = b.op(
        "Slice",
        b.op("Reshape", spread, rows_inputs),
        zero,
        b.attribute("row_length"),
        b.constant(np.array([1], np.int64)),
    )
    return b.op("Reshape", used, b.constant(np.array([-1], np.int64)))


def _row_offsets(b: FunctionBuilder, stride: int) -> str:
    """`stride` * row for every code or byte, flat."""
    rows = b.op(
        "Reshape", b.op("Constant", value_ints=ints("row_offsets")), b.constant(np.array([-1, 1], np.int64))
    )
    length = b.op("Concat", b.constant(np.array([1], np.int64)), b.attribute("row_length"), axis=0)
    numbers = b.op("Mul", b.op("Cast", rows, to=6), b.constant(np.array(stride, np.int32)))
    spread = b.op("Expand", numbers, length)
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
