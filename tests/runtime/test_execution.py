"""Observed float graphs: the tensors that were asked for, nothing else loaded, and no hold on the weights."""

import gc
import weakref

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import level_for, observer
from lpcompile.runtime.session import Session
from tests.support import parse_model, run_model

TEXT = """g (float[n,64] x) => (float[n,32] y) <float[64,64] w, float[64] b, float[64,32] v> {
    t = Gemm (x, w, b)
    u = Relu (t)
    y = MatMul (u, v)
}"""
FEEDS = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}


@pytest.mark.parametrize("tensors", [["u"], ["x", "t", "u"], ["y"], ["u", "y", "u"], ["x"]])
def test_named_tensors_are_given(tensors: list[str]) -> None:
    made = parse_model(TEXT)
    graph = LpGraph.from_proto(made)
    found = observer(graph, tensors)(FEEDS)
    assert list(found) == list(dict.fromkeys(tensors))
    assert [o.name for o in graph.outputs] == ["y"]
    np.testing.assert_array_equal(found.get("x", FEEDS["x"]), FEEDS["x"])
    t = FEEDS["x"] @ graph.value("w").values + graph.value("b").values
    wanted = {"x": FEEDS["x"], "t": t, "u": np.maximum(t, 0), **run_model(made, FEEDS)}
    for name in tensors:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_what_the_outputs_do_not_need_is_not_loaded() -> None:
    session = Session(LpGraph.from_proto(parse_model(TEXT)), outputs=["u"])
    assert session.outputs == ["u"]
    assert set(session._shared) == {"w"}  # b is small and travels in the model


def test_weights_go_with_the_observer_without_the_cycle_collector() -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    layer = graph.nodes("Gemm")[0]
    w = np.ones((64, 64), np.float32)
    graph.set_weights(layer, w, None)
    held = weakref.ref(w)
    del w
    gc.collect()
    gc.disable()
    try:
        run = observer(graph, ["u"])
        run(FEEDS)
        del run
        assert held() is not None
        graph.set_weights(layer, np.zeros((64, 64), np.float32), None)
        assert held() is None
    finally:
        gc.enable()


def test_the_full_level_is_for_more_than_a_few_samples() -> None:
    assert [level_for(n) for n in (1, 32, 33)] == ["extended", "extended", "all"]
    calls = [{"x": np.zeros((20, 3)), "once": np.zeros(())}, {"x": np.zeros((13, 3)), "once": np.zeros(())}]
    assert Calibration(calls).samples == 33
    assert Calibration([{"once": np.zeros(())}]).samples == 1
