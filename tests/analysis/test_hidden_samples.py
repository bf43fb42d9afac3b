"""Samples of what layers read: the codes that the runtime will make, the longest rows among them."""

import numpy as np
import pytest

from lpcompile.analysis.hidden_samples import POSITIONS, codes_of_run, hidden_samples, longest_rows
from lpcompile.analysis.layer_inputs import input_reading
from lpcompile.errors import CalibrationError
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.runtime.execution import observer
from tests.support import parse_model, run_model

NET = "m (float[n,5,8] x) => (float[n,5,3] y) <float[8,3] w> { [a] y = MatMul (x, w) }"
ROUNDING = """m (float[5,8] x) => (uint8[5,8] q, float[1] s, uint8[1] z) <int64[1] one = {1}> {
    q, a, b = DynamicQuantizeLinear (x)
    s = Reshape (a, one)
    z = Reshape (b, one)
}"""


def test_codes_are_those_of_each_sample_alone() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, (4, 5, 8)).astype(np.float32)
    x[2] = np.abs(x[2])
    codes, scales = codes_of_run(x, 4)
    for i in range(4):
        found = run_model(parse_model(ROUNDING), {"x": x[i]})
        np.testing.assert_array_equal(codes[i], found["q"].astype(int) - int(found["z"][0]))
        assert scales[i] == pytest.approx(float(found["s"][0]), rel=1e-6)
    together, scale = codes_of_run(x, 20)
    assert len(scale) == 1
    assert scale[0] >= scales.max() * (1 - 1e-6)
    assert np.abs(together).max() <= 255


def test_the_longest_rows_are_among_those_that_are_kept() -> None:
    rows = np.random.default_rng(1).normal(size=(100, 6)).astype(np.float32)
    rows[[7, 64]] *= 10
    at = longest_rows(rows, 10)
    assert {7, 64} <= set(at.tolist())
    assert {0, 99} <= set(at.tolist()), "others are spread over all"
    assert len(at) <= 10
    assert longest_rows(rows, 100).tolist() == list(range(100))


def test_static_codes_and_those_found_at_run_time() -> None:
    graph = LpGraph.from_proto(parse_model(NET))
    reading = input_reading(graph.node("a"))
    assert not isinstance(reading, str)
    plan = ActivationPlan("uint8", 0.01, 100, "x")
    calls = [{"x": np.random.default_rng(i).normal(size=(2, 5, 8)).astype(np.float32)} for i in range(3)]
    found = hidden_samples(graph, {"static": (reading, plan), "run": (reading, None)}, observer, calls)
    x = np.concatenate([c["x"].reshape(-1, 8) for c in calls])
    np.testing.assert_array_equal(found["static"].codes, np.clip(np.rint(x / np.float32(0.01)), -100, 155))
    assert found["static"].step == pytest.approx(0.01, rel=1e-9)
    scales = [np.ptp(np.append(one, 0)) / 255 for c in calls for one in c["x"]]
    assert found["run"].step == pytest.approx(np.sqrt(np.mean(np.square(scales))), rel=1e-6)
    many = [{"x": np.ones((POSITIONS, 5, 8), np.float32)}]
    assert len(hidden_samples(graph, {"a": (reading, plan)}, observer, many)["a"].codes) <= POSITIONS
    calls[1]["x"][0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match="not finite"):
        hidden_samples(graph, {"a": (reading, plan)}, observer, calls)
