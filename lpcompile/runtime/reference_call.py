"""What a call of an `lpcompile` function says of itself: family, stored format, layout, output range."""

import re
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from lpcompile.errors import ModelError
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.ir.decode import EIGHTHS, LOOKED_UP
from lpcompile.ir.domain import PATHS
from lpcompile.ir.float8 import BLOCKS as FLOAT8_BLOCKS
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.low_rank import SIDE_INPUTS

NORM = "QuantNorm"  # with a stored format a convolution of one product a channel, without one `dyadic`
BLOCKS = ("BlockQuantMatMul",)
FLOAT_TO_FLOAT = ("DynamicQuantMatMul", *BLOCKS)  # inputs are rounded at run time
DYADIC_LAYERS = tuple(k + op for k in ("Dyadic", "Accumulate") for op in ("Conv", "Gemm", "MatMul"))
LAYERS = (
    *("QuantConv", NORM, "QuantGemm", "QuantMatMul", *FLOAT_TO_FLOAT, "DequantizeWeights"),
    *DYADIC_LAYERS,
)
DYADIC_ELEMENTWISE = (
    *("DyadicAdd", "DyadicMul", "DyadicAveragePool", "DyadicGlobalAveragePool"),
    *(NORM, "Lookup"),
)
_LAYER = re.compile(
    rf"(?P<family>{'|'.join(LAYERS)})_(?P<format>.+?)(?P<grouped>_g(?P<group>\d*))?(_(?P<scale_codes>s8|u8|b16))?"
    r"(?P<tables>_rows)?(?P<side>_side)?(_odd)?"
    r"(?P<no_bias>_nobias)?(?P<float_out>_float)?(?P<path>_path|_concat)?(_a(?P<bits>\d+))?(_r(?P<rank>\d+)a(?P<axis>\d+))?(_d\d)?(_t\d)?"
)
_PATHS = {label: lowering for lowering, (label, _) in PATHS.items()}
FLOAT8_WEIGHTS, FLOAT8_VALUES = "DualPrecisionWeights", "RoundFloat8"
WIDE_WEIGHTS = "Float8Weights"
_FLOAT8 = re.compile(
    rf"(?P<family>{FLOAT8_WEIGHTS}|{WIDE_WEIGHTS}|{FLOAT8_VALUES})(?P<blocks>{FLOAT8_BLOCKS})?(_r\d+a(?P<axis>\d+))?"
)
_DYADIC = re.compile(rf"(?P<family>{'|'.join(DYADIC_ELEMENTWISE)})(_t(?P<trailing>\d))?")
_ELEMENTWISE = re.compile(r"Quant(?P<family>[A-Za-z]+?)(_a(?P<bits>\d+))?")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, read from the name of its function and its attributes.

    Attributes:
        family: "QuantConv", ..., or for elementwise work the float operator ("Add").
        attributes: of the node.
        format: of the stored codes; None for elementwise work.
        group_size: inputs that share an integer multiplier; 0 for none.
        scale_codes: how channel scales are coded, "s8", "u8" or "b16"; empty: float32.
        row_tables: whether every output channel has a table of its own.
        side: whether factors of a side path are merged into the weights, or of dyadic layers run beside them.
        has_bias: whether the last input is a bias; before those of a path that stays apart.
        path: lowering of such a path, whose numbers are the last inputs; empty without one.
        float_out: whether the accumulator is scaled to float32.
        code_max: largest code of the output.
        axis: of DequantizeWeights and DualPrecisionWeights, the axis of the channels; 0 elsewhere.
        trailing: of QuantNorm, the axes after that of the channels.
        format_inputs: how many inputs after the stored ones hold levels and unit of the format, in float layers.
        eighths: whether the codes are int4 that is read as FP8; of DualPrecisionWeights, whether they are rounded so.
    """

    family: str
    attributes: dict[str, Any]
    format: NumberFormat | None = None
    group_size: int = 0
    scale_codes: str = ""
    row_tables: bool = False
    side: bool = False
    has_bias: bool = False
    path: str = ""
    float_out: bool = False
    code_max: int = 255
    axis: int = 0
    trailing: int = 2
    format_inputs: int = 0
    eighths: bool = False

    @classmethod
    def of(cls, node: NodeProto) -> "Call":
        """Read a node.

        Raises:
            ModelError: no function of `lpcompile` has this name.
        """
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if (eighth := _FLOAT8.fullmatch(node.op_type)) is not None:
            rounded = eighth["blocks"] is None
            axis = int(eighth["axis"] or 0)
            return cls(eighth["family"], attributes, float_out=True, axis=axis, eighths=rounded)
        if (dyadic := _DYADIC.fullmatch(node.op_type)) is not None:  # first: no format is called t0 to t3
            return cls(
                dyadic["family"],
                attributes,
                trailing=2 if dyadic["trailing"] is None else int(dyadic["trailing"]),
            )
        match = _LAYER.fullmatch(node.op_type)
        if match is None:
            match = _ELEMENTWISE.fullmatch(node.op_type)
            if match is None or node.domain != DOMAIN:
                raise ModelError(
                    f"'{node.domain}::{node.op_type}' is no operator of {DOMAIN}",
                    where=node.name,
                    hint="the file was written by another version, or edited",
                )
            return cls(match["family"], attributes, code_max=_code_max(match["bits"]))
        looked_up = match["format"] in LOOKED_UP.values()
        family = "QuantConv" if match["family"] == NORM else match["family"]
        return cls(
            family,
            attributes,
            _stored_format(match["format"], attributes),
            int(match["group"] or 0)
            if match["grouped"] is None or match["group"]
            else _group_size(attributes),
            match["scale_codes"] or "",
            match["tables"] is not None,
            match["side"] is not None,
            family in ("QuantConv", "QuantGemm") and match["no_bias"] is None,
            _PATHS[match["path"] or ""],
            match["float_out"] is not None or family in (*FLOAT_TO_FLOAT, "DequantizeWeights"),
            _code_max(match["bits"]),
            int(match["axis"] or 0),
            format_inputs=looked_up * ((match["tables"] is None) + (match["scale_codes"] is not None)),
            eighths=match["format"] == EIGHTHS.lower(),
        )

    @property
    def is_layer(self) -> bool:
        """Whether it has weights."""
        return self.format is not None

    @property
    def is_dyadic(self) -> bool:
        """Whether it computes in exact integers."""
        return self.family in DYADIC_LAYERS or self.family in DYADIC_ELEMENTWISE

    @property
    def path_inputs(self) -> int:
        """How many inputs, the last ones, are numbers of a path that stays apart."""
        return len(PATHS[self.path][1])

    @property
    def stored_inputs(self) -> int:
        """How many inputs hold the stored weights and their scales; dyadic layers have none of these."""
        if self.eighths:
            return 3 + (self.family not in BLOCKS)
        own = 1 + (self.group_size > 0) + self.row_tables
        if self.is_dyadic:
            return own
        return own + 1 + bool(self.scale_codes) + len(SIDE_INPUTS) * self.side

    @property
    def weight_inputs(self) -> int:
        """Those and the inputs that say what the codes of the format stand for."""
        return self.stored_inputs + self.format_inputs


def _stored_format(name: str, attributes: dict[str, Any]) -> NumberFormat:
    """The format that the name or, where levels are looked up, the attribute `format` says."""
    if name not in (*LOOKED_UP.values(), EIGHTHS.lower()):
        return resolve(name)
    return resolve(bytes(attributes.get("format", b"")).decode())


def _group_size(attributes: dict[str, Any]) -> int:
    return int(attributes.get("group_size", [0])[0])


def _code_max(bits: str | None) -> int:
    return (1 << int(bits or 8)) - 1
