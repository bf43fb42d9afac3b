"""How stored weights become int8 inside a function body: codes -> table -> int8, all constant, folded at load.

The bodies are those of `unpacking`, shared by all layers of a file; what differs between formats is data of the call.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_levels, group_unit
from lpcompile.ir.function import FunctionBuilder
from lpcompile.ir.low_rank import SIDE_INPUTS, merged
from lpcompile.ir.unpacking import SCALE_BODIES, taken_apart, unpacked

ROW_TABLES = "tables"
EIGHTHS, EIGHTH_WEIGHTS = "Eighths", "EighthWeights"  # bodies of `ir.eighth_image`
LOOKED_UP = {bits: f"w{bits}" for bits in range(2, 8)}  # in names of functions whose call brings the levels


@dataclass(frozen=True, slots=True)
class Storage:
    """How the weights of one layer are stored, as far as the body has to know.

    Attributes:
        format: of the codes.
        group_size: inputs that share an integer multiplier; 0 for none.
        scale_codes: how channel scales are coded, a key of `SCALE_BODIES`; empty: float32.
        row_tables: every output channel has its own 16-entry int8 table.
        transposed: codes are stored (C_out, K) but the operator wants (K, C_out).
        straddling: a byte may hold codes of two rows or groups (an odd number of inputs), so that its two codes
            need different tables; or the multipliers leave half a byte over.
        side: factors of a low-rank side path stand beside them, to be merged.
        eighths: int4 codes with bfloat16 group scales that are read as FP8, and a step of int8 for each row.
    """

    format: NumberFormat
    group_size: int = 0
    scale_codes: str = ""
    row_tables: bool = False
    transposed: bool = False
    straddling: bool = False
    side: bool = False
    eighths: bool = False

    @property
    def image_unit(self) -> float:
        """What one unit of the int8 weights is worth in units of the channel scale; int8 stands for itself."""
        if self.group_size:
            return group_unit(self.format)
        return self.format.image_scale if self.format.image() is not None else 1.0

    @property
    def packed(self) -> bool:
        """Whether codes are taken out of bytes or words that hold several of them."""
        return self.format.bits < 8

    @property
    def pairs(self) -> bool:
        """Two codes a byte."""
        return self.format.bits == 4

    @property
    def looked_up(self) -> bool:
        """Whether codes find int8 levels in a table that the call brings; one body serves all such formats."""
        return self.packed and not self.eighths and (self.row_tables or self.format.image() is not None)

    @property
    def label(self) -> str:
        """Part of the function's name: layout, and the format where the body holds its values."""
        if self.eighths:
            return EIGHTHS.lower()
        return self._label(LOOKED_UP[self.format.bits] if self.looked_up else self.format.name, "g")

    @property
    def own_label(self) -> str:
        """The same for a body that holds the levels of the format and the size of groups."""
        return self._label(self.format.name, f"g{self.group_size}")

    def _label(self, name: str, groups: str) -> str:
        parts = [name]
        if self.group_size:
            parts.append(groups)
        if self.scale_codes:
            parts.append(self.scale_codes)
        if self.row_tables:
            parts.append("rows")
        if self.side:
            parts.append("side")
        if self.straddling:
            parts.append("odd")
        return "_".join(parts)

    @property
    def inputs(self) -> list[str]:
        """Names of the function inputs that hold the stored weights and their scales, in order."""
        if self.eighths:
            return [*self.integer_inputs, "first_scale"]
        scales = ["scale_codes", "scale_unit"] if self.scale_codes else ["w_scale"]
        return [*self.integer_inputs, *scales, *(SIDE_INPUTS if self.side else ())]

    @property
    def format_inputs(self) -> list[str]:
        """Names of the function inputs after those, equal for all layers of a format."""
        return [*self.level_inputs, *(["image_unit"] if self.looked_up and self.scale_codes else [])]

    @property
    def level_inputs(self) -> list[str]:
        """That of them which the int8 weights come from."""
        return ["levels"] if self.looked_up and not self.row_tables else []

    def format_values(self) -> dict[str, NDArray[np.generic]]:
        """What `format_inputs` hold: int8 levels by code, or what `GroupLevels` makes them of; `image_unit`."""
        found: dict[str, NDArray[np.generic]] = {"image_unit": np.array(self.image_unit, np.float32)}
        if self.level_inputs:
            found["levels"] = group_levels(self.format) if self.group_size else self._image()
        return {name: found[name] for name in self.format_inputs}

    def _image(self) -> NDArray[np.generic]:
        image = self.format.image()
        assert image is not None
        return np.asarray(image)

    @property
    def integer_inputs(self) -> list[str]:
        """Those inputs that the int8 weights come from."""
        names = ["codes"]
        if self.eighths:
            return [*names, "group_scales", "steps"]
        if self.group_size:
            names.append("multipliers")
        if self.row_tables:
            names.append(ROW_TABLES)
        return names


def weights_int8(b: FunctionBuilder, storage: Storage) -> str:
    """The int8 image of the stored weights in the shape that the operator wants.

    Two or four codes are looked up at once: one Gather of pairs loads 4 times faster than taking nibbles apart.
    """
    if not storage.packed:
        return "codes"  # the image itself is stored, as the operator wants it
    if storage.eighths:
        steps = b.op("Cast", "steps", to=TensorProto.FLOAT)
        w8 = unpacked(b, EIGHTH_WEIGHTS, "codes", "group_scales", steps, grouped=True)
        return b.op("Transpose", w8, perm=[1, 0]) if storage.transposed else w8
    kind = "Group" if storage.group_size else "Row" if storage.row_tables else ""
    odd = ("" if storage.pairs else str(storage.format.bits)) + ("Odd" if storage.straddling else "")
    inputs = [*storage.integer_inputs, *storage.level_inputs]
    w8 = unpacked(b, f"{kind}Weights{odd}", *inputs, grouped=bool(storage.group_size))
    return b.op("Transpose", w8, perm=[1, 0]) if storage.transposed and not storage.side else w8


def weights_and_scale(b: FunctionBuilder, storage: Storage) -> tuple[str, str]:
    """The int8 weights as the operator wants them, and their float32 scale; a side path is merged into both."""
    w8, scale = weights_int8(b, storage), channel_scale(b, storage)
    if not storage.side:
        return w8, scale
    w8, scale = merged(b, w8, scale)
    return b.op("Transpose", w8, perm=[1, 0]) if storage.transposed else w8, scale


def weights_float(b: FunctionBuilder, storage: Storage) -> str:
    """Values of a format without an int8 image (float8, posit with es >= 1) as float32, still to be scaled."""
    codes = taken_apart(b, "codes", storage.format.bits)
    if storage.packed:
        codes = b.op("Slice", codes, b.constant(np.array([0], np.int64)), b.attribute("code_count"))
    table = b.constant(np.nan_to_num(storage.format.table()).astype(np.float32))
    values = b.op("Reshape", b.op("Gather", table, codes), b.attribute("weight_shape"))
    return b.op("Transpose", values, perm=[1, 0]) if storage.transposed else values


def channel_scale(b: FunctionBuilder, storage: Storage, *, own: bool = False) -> str:
    """The float32 scale of each output channel: `Scale` is exact, so that it is the same bits on every machine.

    Args:
        b: of the function.
        storage: of the weights.
        own: whether the body holds `image_unit` although formats that are looked up bring it.
    """
    if storage.eighths:
        return b.op("Mul", *(b.op("Cast", name, to=TensorProto.FLOAT) for name in ("steps", "first_scale")))
    if not storage.scale_codes:
        return "w_scale"
    scale = b.call(SCALE_BODIES[storage.scale_codes], "scale_codes", "scale_unit")
    if storage.looked_up and not own:
        return b.op("Mul", scale, "image_unit")
    unit = storage.image_unit
    return scale if unit == 1 else b.op("Mul", scale, b.constant(np.array(unit, np.float32)))
