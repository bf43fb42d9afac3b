"""Sizes that all calls share are those of the graph that gradients are taken of; others stay open."""

import numpy as np
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
