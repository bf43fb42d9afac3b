"""`smooth-inputs`: channels are scaled before matrix products, where that pays for the network."""

import importlib
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.analysis.calibration import Calibration
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.fit import fit
from lpcompile.records import PassReport
from tests.support import Array, assert_same_outputs, parse_model
from tests.support_quant import rounded_over_its_range

RNG = np.random.default_rng(0)
STATIC = "quantize-activations{cost=none, matmul=static}"
DYNAMIC = "quantize-activations{cost=none, matmul=dynamic}"
INSIDE = (
    """h = LayerNormalization <axis = -1> (x, g, b)  p = MatMul (h, w)  t = Tanh (p)  q = MatMul (t, v)"""
)
AFTER = f"{{ {INSIDE}  s = Add (h, q)  n = LayerNormalization <axis = -1> (s, c, b)  y = MatMul (n, o) }}"
BEFORE = f"{{ {INSIDE}  s = Add (x, q)  n = LayerNormalization <axis = -1> (s, c, b)  y = MatMul (n, o) }}"
WEIGHTS = {
    "g": np.ones(32), "b": 0.1 * RNG.standard_normal(32), "c": np.ones(32), "w": RNG.standard_normal((32, 64)) / 6,
    "v": RNG.standard_normal((64, 32)) / 8, "o": RNG.standard_normal((32, 8)) / 6,
}  # fmt: skip


def network(body: str = AFTER, *, outlier: float = 60.0, opset: int = 17) -> ModelProto:
    """A block of a transformer with its norm before or after the sum; one channel of a norm is wide."""
    held = ", ".join(f"float[{','.join(map(str, a.shape))}] {n}" for n, a in WEIGHTS.items())
    model = parse_model(f"m (float[N,6,32] x) => (float[N,6,8] y) <{held}> {body}", opset=opset)
    weights = {**WEIGHTS, "g": np.where(np.arange(32) == 5, outlier, 1.0)}
    weights["w"] = WEIGHTS["w"] / np.where(np.arange(32) == 5, outlier, 1.0)[:, None]
    graph = LpGraph.from_proto(model)
    for name, array in weights.items():
        for node in graph.value(name).consumers:
            for i in [i for i, v in enumerate(node.inputs) if v is not None and v.name == name]:
                node.set_input(i, graph.constant(f"{name}_", array.astype(np.float32)))
    return graph.to_proto()


def samples(count: int = 16) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((count, 6, 32)).astype(np.float32)}


def smoothed(model: ModelProto, followed_by: str = DYNAMIC, **options: Any) -> tuple[LpGraph, PassReport]:
    said: list[PassReport] = []
    made = lpcompile.passes.smooth_inputs(
        model,
        calibration=options.pop("calibration", samples()),
        followed_by=followed_by,
        report=said.append,
        **options,
    )
    return LpGraph.from_proto(made), said[0]


@pytest.mark.parametrize("followed_by", [STATIC, DYNAMIC, STATIC.replace("{", "{format=uint4, ")])
def test_a_multiplication_scales_a_wide_channel_where_nothing_folds(followed_by: str) -> None:
    model = network()
    graph, report = smoothed(model, followed_by)
    assert_same_outputs(model, graph.to_proto(), 1e-5, feeds=samples(3))
    (mul,) = [n for n in graph.nodes("Mul") if n.inputs[0] is not None and n.inputs[0].name == "h"]
    factors = mul.inputs[1]
    assert factors is not None
    assert int(np.argmin(factors.values)) == 5
    assert factors.values.min() < 0.2 * np.median(factors.values)
    assert report.metrics["gain_db"] > 3
    assert any("a multiplication" in c.what and c.node == "MatMul_1" for c in report.changes)
    assert [c.op for c in graph.value("h").consumers] == ["Mul", "Add"]


def test_a_norm_that_products_alone_read_takes_the_factors_in() -> None:
    model = network(BEFORE)
    graph, report = smoothed(model, STATIC)
    assert_same_outputs(model, graph.to_proto(), 1e-5, feeds=samples(3))
    assert any("folded" in c.what and c.node == "MatMul_1" for c in report.changes)
    assert not [n for n in graph.nodes("Mul") if n.output_names[0] in graph.node("MatMul_1").input_names]


def test_integers_keep_more_of_a_network_that_was_smoothed() -> None:
    """In ONNX Runtime, on samples that decided nothing."""
    model, found = network(), []
    for passes in ("", "smooth-inputs,"):
        pipeline = f"fold-batchnorm,{passes}{DYNAMIC},quantize-weights{{format=int8, granularity=channel}}"
        made = lpcompile.compile(model, calibration=samples(32), passes=pipeline)
        found.append(made.report["quality"]["sqnr_db_output"])
    assert found[1] > found[0] + 3


def test_the_gain_is_that_of_the_network_on_calls_that_chose_no_factors() -> None:
    """One product, by numpy: inputs over the range of each call, weights in int8 a row of outputs."""
    rng = np.random.default_rng(2)
    wide = np.where(np.arange(48) == 7, 40.0, 1.0)
    model = parse_model("m (float[N,48] x) => (float[N,16] y) <float[48,16] w> { y = MatMul (x, w) }")
    calls = [{"x": (rng.standard_normal((12, 48)) * wide).astype(np.float32)} for _ in range(9)]
    graph, report = smoothed(model, calibration=calls)
    (factor,), (product,) = graph.nodes("Mul"), graph.nodes("MatMul")
    before = LpGraph.from_proto(model).value("w").values
    scale, after = (v.values for v in (factor.inputs[1], product.inputs[1]) if v is not None)
    deciding = Calibration(calls).deciding
    count = min(4, len(deciding) // 3)
    judging = [deciding[i]["x"] for i in np.linspace(0, len(deciding) - 1, count).astype(int)]
    noise = []
    for s, w in ((np.ones(48), before), (1 / scale.astype(np.float64), after)):
        rounded = fit(np.ascontiguousarray(w.T), resolve("int8"), rule="mse").dequantize().T
        gaps = [rounded_over_its_range((x / s).astype(np.float32)) @ rounded - x @ before for x in judging]
        noise.append(np.mean([np.square(g.astype(np.float64)).sum() for g in gaps]))
    assert report.metrics["gain_db"] == pytest.approx(10 * np.log10(noise[0] / noise[1]), abs=0.01)


def test_a_second_run_changes_nothing() -> None:
    pipeline = f"fold-batchnorm,smooth-inputs,smooth-inputs,{DYNAMIC},quantize-weights{{format=int8}}"
    made = lpcompile.compile(network(), calibration=samples(), passes=pipeline)
    first, second = (p for p in made.report["passes"] if p["name"] == "smooth-inputs")
    assert first["changes"]
    assert not second["changes"]
    assert not second["skips"]


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (network(outlier=1.0), {}, "all inputs of matrix products together lose less than 35 dB"),
        (network(), {"multiply": False}, "nothing takes the factors in"),
        (network(), {}, "without it, all inputs would lose less than 2% more"),
    ],
)
def test_what_stays_says_why(model: ModelProto, options: dict[str, Any], reason: str) -> None:
    _, report = smoothed(model, **options)
    assert reason in {s.reason for s in report.skips}
    assert "MatMul_1" in {s.node for s in report.skips} or report.changes


def test_channels_that_are_alike_have_no_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its search says of them, which here finds nothing."""
    module = importlib.import_module("lpcompile.passes.smooth_inputs")
    monkeypatch.setattr(module, "search", lambda readers, size: None)
    _, report = smoothed(network())
    assert "no factors that were tried lose less" in {s.reason for s in report.skips}


def test_where_the_network_would_gain_nothing_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("lpcompile.passes.smooth_inputs")
    monkeypatch.setattr(module, "GAIN_DB", 300.0)
    model = network()
    graph, report = smoothed(model)
    assert graph.ops() == LpGraph.from_proto(model).ops()
    assert_same_outputs(model, graph.to_proto(), 0, feeds=samples(3))
    assert any(s.reason.startswith("the network would gain ") for s in report.skips)


def test_without_samples_nothing_is_scaled() -> None:
    assert not smoothed(network(), calibration=None)[1].changes


def test_layers_that_stay_float_are_left_alone() -> None:
    graph, report = smoothed(network(), keep_float=["MatMul_1", "MatMul_3", "MatMul_6"])
    assert not report.changes
    assert not graph.nodes("Mul")


@pytest.mark.parametrize("followed_by", [DYNAMIC, STATIC.replace("{", "{format=uint4, ")])
def test_an_input_that_is_always_zero_has_a_range(followed_by: str) -> None:
    graph, _ = smoothed(network(BEFORE.replace("Tanh (p)", "Sub (p, p)")), followed_by)
    assert len(graph.layers()) == 3


def test_an_input_that_is_not_finite_is_left_alone() -> None:
    body = BEFORE.replace("t = Tanh (p)", "d = Sub (p, p)  e = Div (p, d)  t = Add (p, e)")
    _, report = smoothed(network(body))
    assert {s.node: s.reason for s in report.skips}["MatMul_5"] == "its input is not finite on the samples"
