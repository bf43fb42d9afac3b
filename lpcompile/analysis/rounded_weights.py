"""The weights of a layer as a format would hold them, for asking what that costs."""

from dataclasses import dataclass

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.ir.node import Node
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import from_rows, to_rows


@dataclass(frozen=True, slots=True)
class WeightRounding:
    """Nearest rounding.

    Attributes:
        format: name of a number format.
        granularity: "tensor", "channel" or "group".
        rule: of the scales: "mse" or another that needs no data.
        group_size: inputs a group.
    """

    format: str = "int4"
    granularity: str = "channel"
    rule: str = "mse"
    group_size: int = 32


def weight_rows(node: Node) -> F32:
    """The weights of a layer, (C_out, K).

    Raises:
        FormatError: NaN or infinite weights.
    """
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    if not np.isfinite(rows).all():
        raise FormatError(
            "weights are NaN or infinite", where=node.name, hint="repair the model, or leave the layer float"
        )
    return rows


def rounded_rows(node: Node, how: WeightRounding) -> F32:
    """The rows of a layer after rounding, (C_out, K)."""
    return fit(
        weight_rows(node),
        resolve(how.format),
        granularity=how.granularity,
        rule=how.rule,
        group_size=how.group_size,
    ).dequantize()


def as_weight(node: Node, rows: F32) -> F32:
    """Rows in the shape of the layer's weight tensor."""
    weight = node.inputs[1]
    assert weight is not None
    return np.ascontiguousarray(from_rows(node.op, rows, weight.dims), np.float32)
