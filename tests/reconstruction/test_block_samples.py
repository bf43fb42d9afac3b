"""Samples that touch are not cut; memory bounds how many are looked at; drops are as frequent as asked for."""

import numpy as np
import pytest

from lpcompile.analysis.calibration import Feeds
from lpcompile.reconstruction.block_samples import Batching, KeepShape, _fitting, keep_shapes
from lpcompile.reconstruction.descent import kept
from lpcompile.runtime.execution import observer
from tests.support import graph_of

APART = """m (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[1,4] c> {
    a = MatMul (x, w)
    k = Neg (c)
    t = Transpose (a)
    y = Add (a, k)
}"""
TOUCHING = """m (float[N,4] x) => (float[N,4] y) <float[4,4] w> {
    a = MatMul (x, w)
    s = Softmax <axis = 0> (a)
    y = Add (a, s)
}"""


def calls(count: int = 6) -> list[Feeds]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(count)]


def test_separable_samples_and_what_is_the_same_for_all() -> None:
    batching = Batching.of(graph_of(APART), ["a", "k", "x"], observer, calls())
    assert batching.batched == frozenset({"a", "x"})
    assert [len(c["x"]) for c in batching.calls(calls(), 4)] == [4, 2]


@pytest.mark.parametrize("tensor", ["s", "y"])
def test_samples_that_touch_stay_calls(tensor: str) -> None:
    batching = Batching.of(graph_of(TOUCHING), ["a", tensor], observer, calls())
    assert batching.batched is None
    assert len(batching.calls(calls(), 4)) == 6


def test_equal_samples_show_nothing() -> None:
    one = calls(1)[0]
    assert Batching.of(graph_of(APART), ["a"], observer, [one, one]).batched is None


def test_shapes_of_what_is_kept_grow_along_the_axis_of_samples() -> None:
    graph = graph_of(APART)
    batching = Batching.of(graph, ["a"], observer, calls())
    found = keep_shapes(graph, ["a", "t", "k"], batching, observer, calls())
    assert found == {"a": KeepShape((1, 4), 0), "t": KeepShape((4, 1), 1), "k": KeepShape((1, 4), None)}
    assert found["t"].of(5) == (4, 5)


@pytest.mark.parametrize(("most", "count"), [(1000, 10), (100, 5), (1, 4)])
def test_calls_that_fit_are_spread_evenly(most: int, count: int) -> None:
    chosen = _fitting([{"x": np.asarray(i)} for i in range(10)], 10, most)
    at = [int(c["x"]) for c in chosen]
    assert len(at) == count
    assert (at[0], at[-1]) == (0, 9)


@pytest.mark.parametrize("drop", [0.0, 0.25, 0.5])
def test_drops_are_as_frequent_as_asked_for(drop: float) -> None:
    found = kept((100, 200), drop, np.random.default_rng(3))
    assert found.mean() == pytest.approx(1 - drop, abs=4 * np.sqrt(0.25 / found.size))
