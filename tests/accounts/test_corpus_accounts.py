"""Foreign graphs: every node that computes is counted or named, and what costs nothing moves or is free."""

import pytest

from lpcompile.accounts.graphs import float_account, working_nodes
from lpcompile.accounts.nodes import MOVES, VIEWS
from lpcompile.accounts.sizes import settled
from lpcompile.errors import LpcompileError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from tests.corpus import Case, file_case, file_names, node_cases

# Bit logic and sign flips; a single operand; a window or an axis of one number; no bound; a cast of integers.
FREE = {
    "Abs", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Clip",
    "IsInf", "IsNaN", "Max", "MaxPool", "Min", "Neg", "Not", "Or", "ReduceSum", "Resize", "Sign", "Sum", "Trilu",
    "Upsample", "Where", "Xor",
}  # fmt: skip


def is_empty(value: Value | None) -> bool:
    return value is not None and value.shape is not None and 0 in value.shape


def check(case: Case) -> set[str]:
    """Operators of the case, those that cost nothing checked against FREE."""
    try:
        graph = LpGraph.from_proto(case.model)
    except LpcompileError:
        return set()
    graph.infer_shapes()
    graph = settled(graph)
    found = float_account(graph)
    assert not any("contradicts" in u.reason for u in found.uncounted), case.name
    paid = {e.node.split("/")[0] for e in found.entries if e.acev2()} | {
        u.node.split("/")[0] for u in found.uncounted
    }
    unpaid = {
        n.op
        for n in working_nodes(graph)
        if n.name.split("/")[0] not in paid and not n.subgraphs and not any(map(is_empty, n.inputs))
    }
    assert unpaid <= FREE | MOVES | {*VIEWS}, case.name
    return set(graph.ops())


@pytest.mark.slow
def test_single_operators() -> None:
    seen: set[str] = set()
    for case in node_cases():
        seen |= check(case)
    assert len(seen) > 150


@pytest.mark.thorough
def test_model_files() -> None:
    seen: set[str] = set()
    for name in file_names():
        seen |= check(file_case(name))
    assert len(seen) > 30
