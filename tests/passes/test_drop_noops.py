"""`canonicalize`: nodes that change nothing, and pairs of Reshapes and Transposes."""

import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import parse_model

NOOPS = [
    "t = Identity (x)",
    "t = Dropout (x)",
    "t = Dropout (x, ratio, off)",
    "t = Cast <to = 1> (x)",
    "t = Transpose <perm = [0, 1]> (x)",
    "t = Reshape (x, zero_rest)",
    "t = Reshape (x, rest_six)",
    "t = Flatten (x)",
    't = Pad <mode = "reflect"> (x, nothing)',
    "t = Slice (x, start, end)",
    "t = Slice (x, start, six, axis)",
    "t = Tile (x, ones)",
    "t = Expand (x, ones)",
    "t = Concat <axis = 1> (x)",
    "t = Max (x)",
    "a = Transpose (x)  t = Transpose (a)",
    "a = Identity (x)  b = Identity (a)  t = Identity (b)",
    "t = Clip (x)",
]


@pytest.mark.parametrize("body", NOOPS)
def test_a_node_that_changes_nothing_goes(body: str) -> None:
    graph, report = rewrite(
        Canonicalize(),
        f"""
        m (float[N, 6] x) => (float[N, 6] y)
        <int64[2] zero_rest = {{0, -1}}, int64[2] rest_six = {{-1, 6}}, int64[4] nothing = {{0, 0, 0, 0}},
         int64[1] start = {{0}}, int64[1] end = {{9223372036854775807}}, int64[1] six = {{6}},
         int64[1] axis = {{1}}, int64[2] ones = {{1, 1}}, float ratio = {{0.5}}, bool off = {{0}}>
        {{ {body}  y = Abs (t) }}""",
    )
    assert graph.ops() == ["Abs"]
    assert report.changes


@pytest.mark.parametrize(
    "body",
    [
        "t = Cast <to = 11> (x)  u = Abs (t)  y = Cast <to = 1> (u)",
        "t = Transpose (x)  y = Abs (t)",
        "t = Reshape (x, pairs)  y = Abs (t)",
        "t = Slice (x, one, end, axis)  y = Abs (t)",
        "t = Slice (x, zero, end, axis, two)  y = Abs (t)",
        "t = Tile (x, twice)  y = Abs (t)",
        "t = Flatten <axis = 0> (x)  y = Abs (t)",
        "t = Concat <axis = 0> (x, x)  y = Abs (t)",
    ],
)
def test_a_node_that_changes_something_stays(body: str) -> None:
    assert (
        left_alone(
            Canonicalize(),
            f"""
        m (float[2, 6] x) => (float[a, b] y)
        <int64[2] pairs = {{-1, 2}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] end = {{99}},
         int64[1] axis = {{1}}, int64[1] two = {{2}}, int64[2] twice = {{1, 2}}>
        {{ {body} }}""",
        )
        == []
    )


def test_two_reshapes_become_one() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[2, 6] x) => (float[3, 4] y) <int64[3] cube = {1, 3, 4}, int64[2] rows = {3, -1}>
        { t = Reshape (x, cube)  y = Reshape (t, rows) }""",
    )
    assert graph.ops() == ["Reshape"]


def test_a_reshape_that_copies_a_dimension_of_its_input_keeps_it() -> None:
    assert (
        left_alone(
            Canonicalize(),
            """
        m (float[2, 6] x) => (float[3, 4] y) <int64[3] cube = {3, 2, 2}, int64[2] rows = {0, -1}>
        { t = Reshape (x, cube)  y = Reshape (t, rows) }""",
        )
        == []
    )


def test_two_transposes_become_one() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[2, 3, 4] x) => (float[a, b, c] y)
        { t = Transpose <perm = [1, 2, 0]> (x)  y = Transpose <perm = [0, 2, 1]> (t) }""",
    )
    assert graph.ops() == ["Transpose"]


def test_a_transpose_read_elsewhere_keeps_its_work() -> None:
    assert (
        left_alone(
            Canonicalize(),
            """
        m (float[2, 3, 4] x) => (float[a, b, c] y, float[b, c, a] t)
        { t = Transpose <perm = [1, 2, 0]> (x)  y = Transpose <perm = [0, 2, 1]> (t) }""",
        )
        == []
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "m (float[4] x) => (float[4] y) { y = Identity (x) }",
            "both its input and its result are known outside by name",
        ),
        (
            "m (float[4] x) => (float[4] t, float[4] y) { t = Abs (x)  y = Identity (t) }",
            "both its input and its result are known outside by name",
        ),
        (
            "m (float[4] x) => (float[4] y, bool[4] z) { y, z = Dropout (x) }",
            "its mask is used",
        ),
        (
            "m (float[4] x, bool on) => (float[4] y) <float ratio = {0}> { y = Dropout (x, ratio, on) }",
            "training mode is not known to be off",
        ),
    ],
)
def test_why_a_noop_stays(model: str, reason: str) -> None:
    assert left_alone(Canonicalize(), model) == [reason]


def test_a_graph_output_keeps_its_name() -> None:
    graph, _ = rewrite(Canonicalize(), "m (float[4] x) => (float[4] y) { t = Abs (x)  y = Identity (t) }")
    assert [n.output_names for n in graph.nodes()] == [["y"]]


def test_a_tensor_that_a_body_reads_keeps_its_name() -> None:
    model = parse_model("""
        m (float[4] x, bool c) => (float[4] y) {
            t = Abs (x)
            u = Identity (t)
            y = If (c) <then_branch = g1 () => (float[4] a) { a = Neg (u) },
                        else_branch = g2 () => (float[4] b) { b = Exp (u) }>
        }""")
    graph, _ = rewrite(Canonicalize(), model)
    assert graph.ops() == ["Abs", "If"]


def test_nodes_without_names_and_old_opsets() -> None:
    model = parse_model(
        "m (float[2, 6] x) => (float[2, 6] y) { t = Dropout (x)  u = Identity (t)  y = Abs (u) }", opset=7
    )
    for node in model.graph.node:
        node.ClearField("name")
    graph, _ = rewrite(Canonicalize(), model)
    assert graph.ops() == ["Abs"]


@pytest.mark.parametrize(("is_test", "ops"), [(1, ["Abs"]), (0, ["Dropout", "Abs"])])
def test_dropout_of_opset_six_says_whether_it_trains(is_test: int, ops: list[str]) -> None:
    # ONNX Runtime has no kernel for this version, so the shape of the graph is the check.
    graph = LpGraph.from_proto(
        parse_model(
            f"m (float[4] x) => (float[4] y) {{ t = Dropout <is_test = {is_test}> (x)  y = Abs (t) }}",
            opset=6,
        )
    )
    report = Canonicalize().run(graph, CONTEXT)
    assert graph.ops() == ops
    assert [skip.reason for skip in report.skips] == ["it trains, as is_test=0 says"] * (1 - is_test)
