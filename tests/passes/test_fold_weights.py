"""`fold-constants`: weights that an exporter puts together of slices fold, though every slice alone is growth."""

import numpy as np

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_constants import FoldConstants
from lpcompile.pipeline import PassContext
from lpcompile.records import PassReport
from tests.support import parse_model, random_feeds, run_model

GATES = """m (float[3,2,64] x) => (float[3,1,2,128] y)
<float[512,64] wi, float[512,128] wh, int64[1] z = {0}, int64[1] i = {128}, int64[1] o = {256}, int64[1] c = {384},
 int64[1] end = {512}> {
    w1 = Slice (wi, z, i, z)  w2 = Slice (wi, c, end, z)  w3 = Slice (wi, i, c, z)
    r1 = Slice (wh, z, i, z)  r2 = Slice (wh, c, end, z)  r3 = Slice (wh, i, c, z)
    wc = Concat <axis = 0> (w1, w2, w3)  w = Unsqueeze (wc, z)
    rc = Concat <axis = 0> (r1, r2, r3)  r = Unsqueeze (rc, z)
    [cell] y, h, s = LSTM <hidden_size = 128> (x, w, r)
}"""
HALF = """m (float[5,128] x, float[128,60] more) => (float[5,240] y, float[5,420] all)
<float[128,420] w, int64[1] z = {0}, int64[1] one = {1}, int64[1] a = {180}> {
    part = Slice (w, z, a, one)  whole = Concat <axis = 1> (part, more)  y = MatMul (x, whole)
    all = MatMul (x, w)
}"""


def folded(text: str, growth: int | None = None) -> tuple[LpGraph, PassReport]:
    graph = LpGraph.from_proto(parse_model(text))
    done = FoldConstants() if growth is None else FoldConstants(growth_bytes=growth)
    return graph, done.run(graph, PassContext())


def test_gates_in_another_order() -> None:
    model = parse_model(GATES)
    graph, _ = folded(GATES)
    assert [n.op for n in graph.nodes()] == ["LSTM"]
    assert sum(v.nbytes for v in graph.constants()) == 4 * 512 * (64 + 128)
    feeds = random_feeds(model, seed=2)
    np.testing.assert_array_equal(run_model(graph.to_proto(), feeds)["y"], run_model(model, feeds)["y"])


def test_what_is_put_together_with_an_input_is_growth() -> None:
    graph, report = folded(HALF)
    assert [n.op for n in graph.nodes()] == ["Slice", "Concat", "MatMul", "MatMul"]
    assert [s.reason for s in report.skips] == ["its result would enlarge the model"]


def test_strictly_nothing_grows() -> None:
    graph, _ = folded(GATES, growth=0)
    assert "Slice" in [n.op for n in graph.nodes()]


def test_the_layer_then_takes_int8() -> None:
    model = parse_model(GATES)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    result = lpcompile.compile(model, target="ort", calibration=calls, recipe="int8")
    (layer,) = result.report["layers"]
    assert (layer["name"], layer["weight_format"]) == ("cell", "int8")
    assert result.report["totals"]["file_bytes"] < 0.4 * 4 * 512 * (64 + 128)
