"""Sizes that all calls share are those of the graph that gradients are taken of; others stay open."""

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.analysis.call_sizes import with_sizes_of
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, random_feeds

NET = """m (float[N,3,T] x, float[K] k) => (float[N,C,U] y) <float[4,3,3] w> { c = Conv (x, w)  y = Relu (c) }"""
CELL = """m (float[1,T,6] x) => (float[T,1,1,4] y)
<float[6,6] a, float[1,12,6] w, float[1,12,4] r, float[1,24] b> {
    h = MatMul (x, a)  s = Transpose <perm = [1, 0, 2]> (h)  y = GRU <hidden_size = 4> (s, w, r, b)
}"""


def call(n: int, t: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros((n, 3, t), np.float32), "k": np.zeros(5, np.float32)}


def test_what_all_calls_share_is_fixed() -> None:
    graph = LpGraph.from_proto(parse_model(NET))
    graph.infer_shapes()
    found = with_sizes_of([call(4, 10), call(2, 10)], graph)
    assert [v.shape for v in found.inputs] == [("N", 3, 10), (5,)]
    assert found.value("y").shape == ("N", 4, 8)
    assert [v.shape for v in graph.inputs] == [("N", 3, "T"), ("K",)]
    assert with_sizes_of([call(4, 10), call(4, 10)], graph).value("y").shape == (4, 4, 8)
    assert with_sizes_of([call(4, 10), call(2, 9)], graph).inputs[0].shape == ("N", 3, "T")
    assert with_sizes_of([], graph).inputs[0].shape == ("N", 3, "T")


def test_what_a_file_knows_of_operators_stays() -> None:
    """Nothing infers the shape behind an operator of another domain; its rank and fixed sizes are declared."""
    text = NET.replace("c = Conv (x, w)", "e = other.Odd (x)  c = Conv (e, w)")
    model = parse_model(text, check=False)
    model.opset_import.add(domain="other", version=1)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("e", 1, ["N", 3, "T"]))
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    found = with_sizes_of([call(4, 10), call(4, 10)], graph)
    assert found.value("e").shape == ("N", 3, "T")


def test_branches_that_are_not_taken_need_not_fit() -> None:
    text = """m (float[1,2,H,W] x, bool c) => (float[A,B,C,D] y)
    <float[2,2,5,5] w, int64[1] z = {0}, int64[1] o = {1}> {
        y = If (c) <then_branch = g () => (float[A,B,C,D] t) { d = Conv (x, w)  t = Slice (d, z, o, z) },
            else_branch = h () => (float[A,B,C,D] e) { e = Identity (x) }>
    }"""
    graph = LpGraph.from_proto(parse_model(text, check=False))
    graph.infer_shapes()
    feeds = {"x": np.zeros((1, 2, 3, 3), np.float32), "c": np.asarray(False)}
    assert with_sizes_of([feeds], graph).inputs[0].shape == (1, 2, "H", "W")


def test_an_input_of_unknown_rank() -> None:
    model = parse_model(NET)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    assert with_sizes_of([call(4, 10), call(2, 10)], graph).inputs[0].shape == (None, 3, 10)


@pytest.mark.parametrize("lengths", [(12, 12), (12, 9)])
def test_a_recurrent_cell_has_gradients_where_all_samples_are_as_long(lengths: tuple[int, int]) -> None:
    model = parse_model(CELL)
    calls = []
    for i in range(8):
        fixed = parse_model(CELL.replace("float[1,T,6] x", f"float[1,{lengths[i % 2]},6] x"), check=False)
        calls.append(random_feeds(fixed, seed=i))
    made = lpcompile.compile(model, calibration=calls, recipe="auto")
    measured = [w for w in made.report["warnings"] if "scored by measuring" in w]
    assert bool(measured) == (lengths[0] != lengths[1])
