"""How a node without weights runs on 8-bit codes in `dyadic` arithmetic."""

from enum import StrEnum

from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, bounds, data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.unary import UNARY, unary_function


class Form(StrEnum):
    """Kinds of integer work without weights."""

    MOVE = "move"
    CLAMP = "clamp"
    SUM = "sum"
    PRODUCT = "product"
    POOL = "pool"
    GLOBAL_POOL = "global pool"
    NORM = "norm"
    TABLE = "table"


FORM_OPS = frozenset(
    {*DATA_INPUTS, *CLAMPS, *UNARY, "AveragePool", "GlobalAveragePool", "BatchNormalization"}
)
_OF_TWO = {"Add": Form.SUM, "Sub": Form.SUM, "Mul": Form.PRODUCT}


def form_of(node: Node) -> Form | None:
    """The form of a node; None where it has none."""
    if node.domain:
        return None
    if node.op in DATA_INPUTS:
        return Form.MOVE
    if node.op in CLAMPS and bounds(node) is not None:
        return Form.CLAMP
    if node.op in ("AveragePool", "GlobalAveragePool"):
        return Form.POOL if node.op == "AveragePool" else Form.GLOBAL_POOL
    if node.op in _OF_TWO and len(data_inputs(node)) == 2:
        return _OF_TWO[node.op]
    if unary_function(node) is not None:
        return Form.TABLE
    return Form.NORM if channel_norm(node) is not None else None
