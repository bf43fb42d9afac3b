"""`reestimate-batchnorm`: means and variances come back to the float network's, norm by norm."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.reestimate_batchnorm import remaining_norms
from lpcompile.pipeline import ObserveGraph
from lpcompile.records import PassReport
from lpcompile.registry import all_passes
from lpcompile.runtime.execution import observer
from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, learned, noise, quantized
from tests.support import Array, parse_model, run_model

# pre-activation: the norm after an Add is read by a Relu, and by the next Add
HEAD = "float[6,3,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6,6,3,3] w3, float[6,5] w4"
PREACT = f"""m (float[N,3,8,8] x) => (float[N,5] y) <{HEAD}, float[6] g1, float[6] t1, float[6] m1,
 float[6] v1 = {{0.5, 0.7, 0.9, 1.1, 0.3, 1.5}}, float[6] g2, float[6] t2, float[6] m2,
 float[6] v2 = {{1.5, 1.7, 0.9, 1.1, 1.3, 2.5}}> {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    n1 = BatchNormalization (a, g1, t1, m1, v1)
    r1 = Relu (n1)
    c = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    s = Add (c, a)
    n2 = BatchNormalization (s, g2, t2, m2, v2)
    r2 = Relu (n2)
    d = Conv <pads = [1, 1, 1, 1]> (r2, w3)
    e = Add (d, s)
    p = GlobalAveragePool (e)
    f = Flatten (p)
    y = MatMul (f, w4)
}}"""
AFFINE = f"""m (float[N,3,8,8] x) => (float[N,5] y) <{HEAD}, float[6,1,1] g1, float[6,1,1] t1> {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    %s
    r1 = Relu (n1)
    c = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    s = Add (c, a)
    d = Conv <pads = [1, 1, 1, 1]> (s, w3)
    p = GlobalAveragePool (d)
    f = Flatten (p)
    y = MatMul (f, w4)
}}"""
FORMS = {
    "Mul, Add": "m1 = Mul (a, g1)  n1 = Add (m1, t1)",
    "Mul, Sub": "m1 = Mul (g1, a)  n1 = Sub (m1, t1)",
    "Div, Sub from": "m1 = Div (a, g1)  n1 = Sub (t1, m1)",
}
COARSE = "quantize-weights{format=fixp4,granularity=channel},correct-bias"


def made(text: str) -> Quantized:
    return quantized(text, f"{NO_COSTS},{COARSE}", calls=24)


@pytest.fixture(scope="module")
def preact() -> Quantized:
    return made(PREACT)


def reestimated(found: Quantized, **context: object) -> tuple[LpGraph, PassReport]:
    graph, report, _ = learned(found, "reestimate-batchnorm", **context)
    return graph, report


def moments(found: Quantized, graph: LpGraph, tensor: str) -> tuple[Array, Array]:
    """Mean and deviation of every channel, over all deciding samples at once."""
    run = observer(graph, [tensor], threads=1)
    calls = found.context.calibration.deciding  # type: ignore[union-attr]
    y = np.concatenate([run(c)[tensor] for c in calls]).astype(np.float64)
    axes = (0, *range(2, y.ndim))
    return y.mean(axes), y.std(axes)


@pytest.mark.thorough
def test_means_and_variances_are_the_float_networks_again(preact: Quantized) -> None:
    norms = remaining_norms(preact.graph)
    assert [n.op for n in norms] == ["BatchNormalization"] * 2
    graph, report = reestimated(preact)
    assert [c.node for c in report.changes] == [n.name for n in norms]
    assert report.metrics["gain_db"] > 0
    assert noise(preact, graph) < noise(preact, preact.graph)
    rounded = rounded_network(graph, graph.plan)
    before = rounded_network(preact.graph, preact.graph.plan)
    for node in norms:
        (tensor,) = [v.name for v in node.outputs if v is not None]
        wanted, now, old = (moments(preact, g, tensor) for g in (preact.graph, rounded, before))
        np.testing.assert_allclose(now[0], wanted[0], rtol=0, atol=1e-5 * wanted[1].max())
        np.testing.assert_allclose(now[1], wanted[1], rtol=1e-5)
        assert (np.abs(old[1] / wanted[1] - 1) > 1e-3).any(), "rounding had moved it"
        assert set(graph.plan.norms[node.name].constants) == {1, 2}


@pytest.mark.parametrize("form", FORMS)
def test_norms_in_disguise(form: str) -> None:
    found = made(AFFINE % FORMS[form])
    scale, shift = remaining_norms(found.graph)
    graph, report = reestimated(found)
    assert [c.node for c in report.changes] == [scale.name, shift.name]
    assert "mean" not in report.changes[0].after
    assert "scale" not in report.changes[1].after
    rounded = rounded_network(graph, graph.plan)
    wanted, now = (moments(found, g, "n1") for g in (found.graph, rounded))
    np.testing.assert_allclose(now[0], wanted[0], rtol=0, atol=1e-5 * wanted[1].max())
    np.testing.assert_allclose(now[1], wanted[1], rtol=1e-5)


def test_a_bias_is_no_norm() -> None:
    found = made(AFFINE % "n1 = Add (a, t1)".replace("a, t1", "x6, t1").replace("n1", "x6 = Mul (a, a)  n1"))
    assert not remaining_norms(found.graph)
    graph, report = reestimated(found)
    assert graph.plan is found.graph.plan
    assert not report.skips


def test_the_same_again_and_nothing_more_in_a_second_run(preact: Quantized) -> None:
    once, _ = reestimated(preact)
    same, _ = reestimated(preact)
    digests = [{k: n.constants_sha256 for k, n in g.plan.norms.items()} for g in (once, same)]
    assert digests[0] == digests[1]
    twice, report = reestimated(replace(preact, graph=once))
    assert twice.plan is once.plan
    assert {s.reason for s in report.skips} == {
        "what it gives has the mean and the variance of the float network"
    }
    assert len(report.skips) == 2


def test_reasons_to_leave_norms_alone(preact: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(found: Quantized, **context: object) -> set[str]:
        graph, report = reestimated(found, **context)
        assert graph.plan is found.graph.plan
        assert not report.changes
        return {s.reason for s in report.skips}

    assert reasons(preact, calibration=None) == {"no calibration data to measure it on"}
    computed = (
        "g = ReduceMean <axes = [0, 2, 3], keepdims = 0> (a)  n1 = BatchNormalization (a, g, t1, m1, v1)"
    )
    text = PREACT.replace("n1 = BatchNormalization (a, g1, t1, m1, v1)", computed).replace(
        " float[6] g1,", ""
    )
    text = text.replace("n2 = BatchNormalization (s, g2, t2, m2, v2)", "n2 = Relu (s)")
    for part in ("float[6] g2, float[6] t2, float[6] m2,", "float[6] v2 = {1.5, 1.7, 0.9, 1.1, 1.3, 2.5}"):
        text = text.replace(part, "")
    text = text.replace("{0.5, 0.7, 0.9, 1.1, 0.3, 1.5},", "{0.5, 0.7, 0.9, 1.1, 0.3, 1.5}")
    assert reasons(made(text)) == {"its parameters are not constant, or it is in training mode"}

    def spoiled(graph: LpGraph, tensors: Any) -> Any:
        run = observer(graph, tensors, threads=1)
        return lambda feeds: {k: v * np.float32(np.inf) for k, v in run(feeds).items()}

    observe: ObserveGraph = spoiled
    assert reasons(preact, observe=observe) == {"what it gives is not finite on the samples"}
    monkeypatch.setattr("lpcompile.passes.keep_if_better.gain_db", lambda _before, _after: (-0.5, 0.1))
    assert reasons(preact) == {"the network lost 0.50 dB on the samples: norms stay"}


def test_channels_of_one_value_keep_their_scale() -> None:
    """A dead channel has no deviation to be matched; its mean comes back."""
    text = PREACT.replace("float[6] g1", "float[6] g1 = {1, 0, 1, 1, 1, 1}")
    found = made(text)
    graph, _ = reestimated(found)
    (first, _) = graph.nodes("BatchNormalization")
    constants = graph.plan.norms[first.name].constants
    assert constants[1][1] == 0
    assert all(np.isfinite(c).all() for c in constants.values())
    wanted, now = (moments(found, g, "n1") for g in (found.graph, rounded_network(graph, graph.plan)))
    np.testing.assert_allclose(now[0], wanted[0], atol=1e-5)


def test_every_form_of_the_model_has_the_planned_constants(preact: Quantized) -> None:
    graph, _ = reestimated(preact)
    after = Quantized(preact.original, graph, preact.context, {})
    feeds = preact.context.calibration.calls[0]  # type: ignore[union-attr]
    for form in ("functions", "standard", "qdq"):
        old, new = (run_model(q.emitted(form), feeds)["y"] for q in (preact, after))
        assert not np.array_equal(old, new), form


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["ort", "cim"])
def test_from_end_to_end_and_from_the_decisions(target: str, tmp_path: Path) -> None:
    calls = [{"x": x[None]} for x in np.random.default_rng(3).normal(size=(24, 3, 8, 8)).astype(np.float32)]
    given: dict[str, Any] = {"target": target, "calibration": calls}
    pipeline = f"{GRAPH_PASSES},{NO_COSTS},{COARSE}"
    plain = lpcompile.compile(parse_model(PREACT), passes=pipeline, **given)
    first = lpcompile.compile(parse_model(PREACT), passes=f"{pipeline},reestimate-batchnorm", **given)
    assert first.model.SerializeToString() != plain.model.SerializeToString()
    row = first.report["ledger"][-1]
    assert (row["step"], row["kept"]) == ("reestimate-batchnorm", True)
    assert first.decisions.count("[norms.") == 2
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(parse_model(PREACT), decisions=path, **given)
    assert again.decisions == first.decisions
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert not [w for w in again.report["warnings"] if "constants" in w]
    if target == "cim":
        found = first.report["verification"]
        assert found["elements_compared"] > 0
        assert found["elements_different"] == 0


def test_it_is_in_the_catalogue() -> None:
    assert {"tune-scales", "reestimate-batchnorm"} <= set(all_passes())


def test_rounding_again_aims_through_the_planned_constants() -> None:
    """Biases that `requantize-weights` sets fit what the norms give now, not what they gave before."""
    found = quantized(PREACT, f"{NO_COSTS},{COARSE}", calls=24)
    found.rerun("reestimate-batchnorm")
    report = found.rerun("requantize-weights")["requantize-weights"]
    graph = found.graph
    assert len(graph.plan.norms) == 2
    assert report.changes
    rounded = rounded_network(graph, graph.plan)
    wanted, now = (moments(found, g, "d") for g in (graph, rounded))
    stale = rounded_network(graph, replace(graph.plan, norms={}))
    without = moments(found, stale, "d")
    off, otherwise = (np.abs(m[0] - wanted[0]).max() for m in (now, without))
    assert off < 0.1 * otherwise
