"""Operators that are counted by their definition: as their parts, under their name."""

import pytest

from lpcompile.accounts.graphs import float_account
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model


def graph_of(text: str) -> LpGraph:
    imports = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    graph = LpGraph.from_proto(parse_model(f"{imports} m {text}", check=False))
    graph.infer_shapes()
    return graph


HEADS = """(float[1,5,8] q, float[1,6,8] k, float[1,6,8] v) => (float[1,5,8] y)
    { y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }"""
GRID = """(float[1,3,4,5] x, float[1,2,2,2] g) => (float[1,3,2,2] y) { y = GridSample (x, g) }"""


def test_heads_are_two_products_a_scale_and_a_softmax() -> None:
    account = float_account(graph_of(HEADS))
    assert not account.uncounted
    assert {e.node.split("/")[0] for e in account.entries} == {"MultiHeadAttention_0"}
    by_op = {e.op: e for e in account.entries}
    macs = {op: sum(e.work.total() for e in account.entries if e.op == op) for op in by_op}
    assert macs["MatMul"] == 2 * (2 * 5 * 6 * 4)  # q k^T and p v, of two heads
    assert macs["Mul"] == 2 * 5 * 6


def test_a_grid_multiplies_four_corners_of_every_channel() -> None:
    account = float_account(graph_of(GRID))
    assert not account.uncounted
    whole = [e for e in account.entries if e.op == "Mul" and e.work.total() == 3 * 2 * 2]
    assert len(whole) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            HEADS.replace("(q, k, v) }", "(q) }").replace("float[1,5,8] q", "float[1,5,2,3,4] q"),
            "this form of operator com.microsoft::MultiHeadAttention is not known",
        ),
        (
            GRID.replace("(x, g)", '<mode = "bicubic"> (x, g)'),
            "this form of operator GridSample is not known",
        ),
    ],
)
def test_other_forms_say_so(text: str, reason: str) -> None:
    (left,) = float_account(graph_of(text)).uncounted
    assert left.reason == reason
