"""`fold-constants`: how much a model may grow by it."""

import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_constants import FoldConstants
from lpcompile.passes.numpy_evaluation import ResultTooLargeError, evaluate
from lpcompile.pipeline import PassContext
from tests.passes.rewriting import rewrite
from tests.support import parse_model

MASKS = """m (float[30, 30] x) => (float[30, 30] y) <int64[2] size = {30, 30}> {
    o = ConstantOfShape (size)  t = Trilu (o)  e = Exp (t)  s = Sqrt (e)  y = Add (x, s) }"""


@pytest.mark.parametrize(("growth_bytes", "ops"), [(3600, ["Add"]), (3599, None), (0, None)])
def test_a_model_grows_by_no_more_than_it_may(growth_bytes: int, ops: list[str] | None) -> None:
    before = ["ConstantOfShape", "Trilu", "Exp", "Sqrt", "Add"]
    graph, report = rewrite(FoldConstants(growth_bytes=growth_bytes), MASKS, rtol=1e-6)
    assert graph.ops() == (ops or before)
    stays = {s.reason for s in report.skips}
    assert ("its result would enlarge the model" in stays) == (ops is None)


@pytest.mark.parametrize(("held", "folds"), [(4, False), (12000, True)])  # elements of another constant
def test_a_small_model_grows_by_less(held: int, folds: bool) -> None:
    """An outer sum of 5 kB: beside few constants it is too much, an eighth of 48 kB holds it."""
    text = f"""m (float[36, 36] x, int64[1] i) => (float[36, 36] y, float[1] r)
        <float[36, 1] a, float[1, 36] b, float[{held}] w> {{
        t = Add (a, b)  y = Mul (x, t)  r = Gather (w, i) }}"""
    graph, _ = rewrite(FoldConstants(), text)
    assert ("Add" not in graph.ops()) == folds


def test_a_constant_that_a_product_takes_for_inputs_counts() -> None:
    sides = {"MatMul (t, x)": ["Add", "MatMul"], "MatMul (x, t)": ["MatMul"]}
    for product, ops in sides.items():
        text = f"""m (float[36, 36] x) => (float[36, 36] y) <float[36, 1] a, float[1, 36] b> {{
            t = Add (a, b)  y = {product} }}"""
        graph, _ = rewrite(FoldConstants(), text)
        assert graph.ops() == ops


def test_a_copy_of_a_weight_counts_only_where_nothing_may_grow() -> None:
    text = """m (float[1, 9] x, int64[1] i) => (float[1, 8] y, float[1, 9] r) <float[8, 9] w> {
        t = Transpose (w)  y = MatMul (x, t)  r = Gather (w, i) }"""
    graph, _ = rewrite(FoldConstants(), text)
    assert "Transpose" not in graph.ops()
    graph, report = rewrite(FoldConstants(growth_bytes=0), text)
    assert "Transpose" in graph.ops()
    assert [s.reason for s in report.skips] == ["its result would enlarge the model"]


@pytest.mark.parametrize(
    "body",
    [
        "t = ConstantOfShape (big)",
        "t = Expand (w, big)",
        "t = Tile (w, big)",
        "a = Sqrt (w)  t = Expand (a, big)",
        "a = Cast <to = 7> (long)  t = ConstantOfShape (a)",
    ],
)
def test_results_that_would_enlarge_the_model_stay(body: str) -> None:
    _, report = rewrite(
        FoldConstants(),
        f"""
        m (float[1] x) => (float[1] y)
        <int64[2] big = {{400, 400}}, float[1, 1] w, float[2] long = {{400, 400}}>
        {{ {body}  s = ReduceSum <keepdims = 0> (t)  y = Add (x, s) }}""",
        rtol=1e-6,
    )
    assert any("its result would" in skip.reason for skip in report.skips)


def test_what_feeds_a_result_that_stays_is_folded() -> None:
    graph, report = rewrite(
        FoldConstants(),
        """
        m (float[1] x) => (float[1] y) <float[2] sides = {20, 20}, int64[1] zero = {0}>
        { a = Exp (sides)  l = Log (a)  f = Round (l)  k = Cast <to = 7> (f)
          m = Mul (k, k)  t = ConstantOfShape (m)
          s = ReduceSum <keepdims = 0> (t)  y = Add (x, s) }""",
        rtol=1e-6,
    )
    assert graph.ops() == ["ConstantOfShape", "ReduceSum", "Add"]
    assert report.skips[0].reason.startswith("its result would")


def test_growth_is_judged_once_its_size_is_known() -> None:
    _, report = rewrite(
        FoldConstants(),
        """
        m (float[1] x) => (float[1] y) <float[2] f = {3, 3}, float[1, 1] w>
        { n = Sqrt (f)  k = Cast <to = 7> (n)  t = Tile (w, k)  s = ReduceSum <keepdims = 0> (t)
          y = Add (x, s) }""",
    )
    assert report.skips == []


def test_growth_of_unknown_size_stays() -> None:
    model = parse_model("""
        m (float[1] x) => (float[1] y) <float[2] f = {3, 3}, float[1, 1] w>
        { n = Sqrt (f)  k = Cast <to = 7> (n)  t = Tile (w, k)  s = ReduceSum <keepdims = 0> (t)
          y = Add (x, s) }""")
    graph = LpGraph.from_proto(model)
    report = FoldConstants().run(graph, PassContext())
    assert "the size of its result is not known" in [skip.reason for skip in report.skips]


def test_a_result_that_turns_out_too_large_stays_and_its_inputs_fold() -> None:
    graph, report = rewrite(
        FoldConstants(),
        """
        m (float[1] x) => (float[a, b] y) <float[1, 300] scale>
        { i = NonZero (scale)  f = Cast <to = 1> (i)  t = Transpose (f)  p = MatMul (t, f)
          y = Add (x, p) }""",
    )
    assert graph.ops() == ["MatMul", "Add"]
    assert [skip.reason for skip in report.skips] == ["its result would take 360000 bytes"]


GROWING = [
    "t = ConstantOfShape (big)",
    "t = Expand (w, big)",
    "t = Gather (w, many)",
    "t = Range (start, stop, step)",
    "t = Add (w, wide)",
    "t = Cast <to = 11> (w)",
]


@pytest.mark.parametrize("body", GROWING)
def test_numpy_makes_no_result_above_the_limit(body: str) -> None:
    graph = LpGraph.from_proto(
        parse_model(f"""
        m () => (float y)
        <int64[2] big = {{99, 9}}, float[1, 9] w, float[9, 1] wide,
         int64[9, 9] many = {{{", ".join("0" * 81)}}},
         int64 start = {{0}}, int64 stop = {{999}}, int64 step = {{1}}>
        {{ {body}  f = Cast <to = 1> (t)  y = ReduceSum <keepdims = 0> (f) }}""")
    )
    graph.infer_shapes()
    with pytest.raises(ResultTooLargeError):
        evaluate(graph.nodes()[0], graph.opset, limit_bytes=64)
