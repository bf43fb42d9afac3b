"""`fold-constants`: how much a model may grow by it."""

import pytest

from lpcompile.passes.fold_constants import FoldConstants
from tests.passes.rewriting import rewrite

MASKS = """m (float[30, 30] x) => (float[30, 30] y) <int64[2] size = {30, 30}> {
    o = ConstantOfShape (size)  t = Trilu (o)  e = Exp (t)  s = Sqrt (e)  y = Add (x, s) }"""


@pytest.mark.parametrize(("growth_bytes", "ops"), [(3600, ["Add"]), (3599, None), (0, None)])
def test_a_model_grows_by_no_more_than_it_may(growth_bytes: int, ops: list[str] | None) -> None:
    before = ["ConstantOfShape", "Trilu", "Exp", "Sqrt", "Add"]
    graph, report = rewrite(FoldConstants(growth_bytes=growth_bytes), MASKS, rtol=1e-6)
    assert graph.ops() == (ops or before)
    stays = {s.reason for s in report.skips}
    assert ("its result would enlarge the model" in stays) == (ops is None)


def test_a_copy_of_a_weight_counts_only_where_nothing_may_grow() -> None:
    text = """m (float[1, 9] x, int64[1] i) => (float[1, 8] y, float[1, 9] r) <float[8, 9] w> {
        t = Transpose (w)  y = MatMul (x, t)  r = Gather (w, i) }"""
    graph, _ = rewrite(FoldConstants(), text)
    assert "Transpose" not in graph.ops()
    graph, report = rewrite(FoldConstants(growth_bytes=0), text)
    assert "Transpose" in graph.ops()
    assert [s.reason for s in report.skips] == ["its result would enlarge the model"]
