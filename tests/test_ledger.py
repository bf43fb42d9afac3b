"""The ledger of gains: its figures by hand in float64, its rows, what ends it, and that it decides nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile import ledger as ledgers
from lpcompile.analysis.calibration import Calibration
from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ledger import ACTIVATIONS_ALONE, AS_SEARCHED, NEAREST_WEIGHTS, Ledger, nearest_plan
from lpcompile.passes.learned_layer import weight_of
from lpcompile.pipeline import Pipeline
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.registry import pass_class, split_pipeline
from lpcompile.report.json import to_json
from lpcompile.report.text import summary
from lpcompile.runtime.execution import observer
from tests.networks import shipped, shipped_data, without_costs
from tests.quantizing import NO_COSTS, context, quantized
from tests.support import parse_model
from tests.support_quant import rounded_over_its_range

ONE = """m (float[N,24] x) => (float[N,6] y) <float[24,6] w> { y = MatMul (x, w) }"""
NET = """m (float[N,16] x) => (float[N,5] y) <float[16,32] w, float[32,5] v, float[5] b> {
    h = MatMul (x, w)  r = Relu (h)  g = MatMul (r, v)  y = Add (g, b) }"""
INTEGERS = """m (int64[N,4] x) => (int64[N,4] y) { y = Add (x, x) }"""
GPTQ = "quantize-weights{format=int4,rounding=gptq}"


def samples(model: ModelProto, calls: int = 24, rows: int = 3) -> list[dict[str, np.ndarray]]:
    """Calls whose inputs go together, which is what GPTQ makes use of."""
    rng = np.random.default_rng(5)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    mixing = rng.normal(size=(4, width))
    drawn = [rng.normal(size=(rows, 4)) @ mixing + 0.1 * rng.normal(size=(rows, width)) for _ in range(calls)]
    return [{"x": x.astype(np.float32)} for x in drawn]


def ledger_of(calibration: Calibration | None) -> Ledger:
    return Ledger.of(calibration, lambda g, tensors: observer(g, tensors, threads=1))


def run(
    text: str, passes: str, calls: list[dict[str, np.ndarray]], *, activations: bool = False
) -> tuple[Ledger, LpGraph]:
    """A ledger after passes on a parsed model whose activations are rounded, or stay float."""
    model = parse_model(text)
    given = Calibration(calls)
    ctx = replace(context(model, 0), calibration=given)
    made = quantized(model, "" if activations else NO_COSTS, calls=0)
    found = ledger_of(given)
    configured = [pass_class(name).configured(options) for name, options in split_pipeline(passes)]
    Pipeline(tuple(configured), frozenset(made.graph.facts)).run(made.graph, ctx, found.after)
    return found, made.graph


def floats_and_read(given: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """The judging inputs, and what a layer reads of them that measures its range at run time, call by call."""
    calls = [c["x"] for c in given.judging]
    read = [rounded_over_its_range(x) for x in calls]
    return np.concatenate(calls).astype(np.float64), np.concatenate(read).astype(np.float64)


def test_the_figures_are_those_of_the_equations() -> None:
    """One layer whose range is measured at run time: y - y^ = x W - x^ W^, in float64, sample by sample."""
    calls = samples(parse_model(ONE))
    found, graph = run(ONE, GPTQ, calls)
    given = Calibration(calls)
    node = next(iter(graph.layers()))
    weights = weight_of(node).astype(np.float64)
    tensor = graph.plan.layers[node.name].tensor
    assert tensor is not None
    rounded = tensor.dequantize().T.astype(np.float64)
    scales = channel_scales(tensor).reshape(1, -1).astype(np.float64)
    nearest = scales * np.clip(np.rint(weights / scales), -8, 7)
    x, read = floats_and_read(given)
    power = np.square(x @ weights).sum(1).mean()
    noise = {k: np.square(read @ w - x @ weights).sum(1) / power for k, w in (("n", nearest), ("g", rounded))}
    first, second = found.entries
    assert [first.step, second.step] == [NEAREST_WEIGHTS, "quantize-weights"]
    assert first.sqnr_db == pytest.approx(-10 * math.log10(noise["n"].mean()), abs=1e-3)
    assert second.sqnr_db == pytest.approx(-10 * math.log10(noise["g"].mean()), abs=1e-3)
    ratio = noise["n"] / noise["n"].mean() - noise["g"] / noise["g"].mean()
    error = 10 / math.log(10) * ratio.std(ddof=1) / math.sqrt(len(x))
    assert second.gain_db == pytest.approx(second.sqnr_db - first.sqnr_db, abs=1e-9)
    assert second.gain_error_db == pytest.approx(error, rel=1e-3)
    assert (first.gain_db, first.gain_error_db, first.kept, second.kept) == (None, None, False, True)


def test_gains_of_logits_stand_beside_those_of_a_softmax() -> None:
    """One layer: t - t^ = x W - x^ W^ less its mean over the classes; outputs that are no softmax have no such gain."""
    text = ONE.replace("y = MatMul (x, w)", "t = MatMul (x, w)  y = Softmax (t)")
    calls = samples(parse_model(text))
    found, graph = run(text, GPTQ, calls)
    node = next(iter(graph.layers()))
    weights = weight_of(node).astype(np.float64)
    x, read = floats_and_read(Calibration(calls))
    nearest = nearest_plan(graph, graph.plan)
    assert nearest is not None
    noise = []
    for plan in (nearest, graph.plan):
        tensor = plan.layers[node.name].tensor
        assert tensor is not None
        error = read @ tensor.dequantize().T.astype(np.float64) - x @ weights
        noise.append(np.square(error - error.mean(1, keepdims=True)).sum(1))
    first, second = found.entries
    assert (first.logits_gain_db, first.logits_gain_error_db) == (None, None)
    wanted = 10 * math.log10(noise[0].mean() / noise[1].mean())
    assert second.logits_gain_db == pytest.approx(wanted, abs=1e-3)
    ratio = noise[0] / noise[0].mean() - noise[1] / noise[1].mean()
    error_db = 10 / math.log(10) * ratio.std(ddof=1) / math.sqrt(len(x))
    assert second.logits_gain_error_db == pytest.approx(error_db, rel=1e-3)
    assert second.gain_db == pytest.approx(second.sqnr_db - first.sqnr_db, abs=1e-9)
    bare, _ = run(ONE, GPTQ, samples(parse_model(ONE)))
    assert all(e.logits_gain_db is None for e in bare.entries)


def test_every_step_is_a_row() -> None:
    passes = f"{NO_COSTS},{GPTQ},correct-bias,correct-bias,requantize-weights"
    found, _ = run(NET, passes, samples(parse_model(NET)), activations=True)
    assert [e.step for e in found.entries] == [
        ACTIVATIONS_ALONE, NEAREST_WEIGHTS, "quantize-weights", "correct-bias", "correct-bias", "requantize-weights",
    ]  # fmt: skip
    assert found.entries[0].gain_db is None
    for before, after in zip(found.entries, found.entries[1:], strict=False):
        assert after.gain_db == pytest.approx(after.sqnr_db - before.sqnr_db, abs=1e-9)
        assert after.gain_error_db is not None
        assert after.gain_error_db >= 0
    again = found.entries[4]
    assert (again.kept, again.gain_db, again.gain_error_db) == (False, 0.0, 0.0)
    assert found.entries[0].sqnr_db > found.entries[2].sqnr_db > found.entries[1].sqnr_db


def test_nearest_weights_are_the_nearest() -> None:
    calls = samples(parse_model(NET))
    _, graph = run(NET, f"{NO_COSTS},{GPTQ}", calls, activations=True)
    plan = nearest_plan(graph, graph.plan)
    assert plan is not None
    for node in graph.layers():
        tensor = plan.layers[node.name].tensor
        assert tensor is not None
        wanted = weight_of(node).T
        levels = channel_scales(tensor)[:, None, None] * np.arange(-8, 8)
        least = np.abs(levels - wanted[..., None]).min(-1)
        np.testing.assert_allclose(np.abs(tensor.dequantize() - wanted), least, rtol=1e-5, atol=1e-7)
        assert plan.layers[node.name].bias_correction is None
    _, graph = run(NET, "quantize-weights{format=int4}", calls)
    assert nearest_plan(graph, graph.plan) is None


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("TOO_MANY_MACS", 1.0, "a call takes"), ("MOST_BYTES", 10, "its float weights take")],
)
def test_large_networks_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float, reason: str
) -> None:
    monkeypatch.setattr(ledgers, limit, value)
    found, _ = run(NET, GPTQ, samples(parse_model(NET)))
    assert not found.entries
    assert found.document()["ledger_basis"]["reason"].startswith(reason)


def test_dear_calls_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = samples(parse_model(NET), calls=64)
    macs = 3 * (16 * 32 + 32 * 5)
    for allowed, taken in ((1e12, 8), (5.5 * macs, 5), (1.0, 2)):
        monkeypatch.setattr(ledgers, "MOST_MACS", allowed)
        found, _ = run(NET, GPTQ, calls)
        basis = found.document()["ledger_basis"]
        assert (basis["calls"], basis["of_calls"], basis["samples"]) == (taken, 8, 3 * taken)


def test_what_ends_it() -> None:
    reason = "there is no calibration data"
    for given in (None, Calibration([], generated=True)):
        assert ledger_of(given).document()["ledger_basis"]["reason"] == reason
    report = lpcompile.compile(
        parse_model(INTEGERS), calibration=[{"x": np.ones((2, 4), np.int64)}] * 4
    ).report
    assert report["ledger"] == []
    calls = samples(parse_model(NET))
    _, graph = run(NET, GPTQ, calls)

    def fails(*_: object) -> None:
        raise ModelError("it does not run")

    broken = Ledger(calls, fails)  # type: ignore[arg-type]
    broken.add("quantize-weights", graph, 0.0)
    broken.add("correct-bias", graph, 0.0)
    assert (broken.entries, broken.obstacle) == ([], "it does not run")


def test_one_call_has_no_error() -> None:
    """Fewer than four calls judge what they decided, and of one no spread is known."""
    calls = samples(parse_model(NET), calls=1, rows=1)
    found, _ = run(NET, GPTQ, calls)
    assert [e.gain_error_db for e in found.entries] == [None, None]
    assert found.document()["ledger_basis"]["held_back"] is False


def test_several_outputs_are_told_to_be_averaged() -> None:
    """Noise over signal, the mean of both; `quality` has the worse."""
    two = """m (float[N,16] x) => (float[N,5] y, float[N,4] z) <float[16,5] w, float[16,4] v> {
        y = MatMul (x, w)  z = MatMul (x, v) }"""
    passes = "fold-batchnorm,quantize-activations{cost=none, matmul=dynamic},quantize-weights{format=int4}"
    made = lpcompile.compile(parse_model(two), calibration=samples(parse_model(two)), passes=passes)
    quality, last = made.report["quality"], made.report["ledger"][-1]["sqnr_db"]
    noise = [10 ** (-db / 10) for db in quality["outputs"].values()]
    assert made.report["ledger_basis"]["outputs"] == len(noise) == 2
    assert last == pytest.approx(-10 * math.log10(np.mean(noise)), abs=0.1)
    assert quality["sqnr_db_output"] == pytest.approx(-10 * math.log10(max(noise)))
    assert "mean of 2 outputs" in summary(made.report)


@pytest.mark.thorough
def test_it_decides_nothing_and_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = shipped("digits_resnet"), str(shipped_data("digits_resnet"))
    with_it = lpcompile.compile(model, calibration=data, recipe="int8")
    report = json.loads(to_json(with_it.report))
    keys = {"step", "sqnr_db", "gain_db", "gain_error_db", "seconds", "kept"}
    keys |= {"logits_gain_db", "logits_gain_error_db"}
    assert all(set(row) == keys for row in report["ledger"])
    steps = [row["step"] for row in report["ledger"]]
    assert steps == [ACTIVATIONS_ALONE, NEAREST_WEIGHTS, "quantize-weights", "correct-bias"]
    assert report["ledger_basis"]["held_back"] is True
    last = report["ledger"][-1]["sqnr_db"]
    assert abs(last - report["quality"]["sqnr_db_output"]) < 1.0  # simulated and emitted agree
    text = summary(with_it.report)
    assert "gains     of each step, simulated in floats on" in text
    assert f"          {NEAREST_WEIGHTS}" in text
    monkeypatch.setattr(Ledger, "add", lambda *_, **__: None)
    without = lpcompile.compile(model, calibration=data, recipe="int8")
    assert without.model.SerializeToString() == with_it.model.SerializeToString()
    assert without.decisions == with_it.decisions
    assert "gains   " not in summary(without.report)


@pytest.mark.thorough
def test_a_search_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)
    model = parse_model(NET)
    found = lpcompile.compile(
        model, calibration=samples(model), recipe="auto", budget={"sqnr-db": 15.0}, effort=0
    )
    steps = [row["step"] for row in found.report["ledger"]]
    assert steps[0] == ACTIVATIONS_ALONE
    assert steps[-1] == AS_SEARCHED


def test_what_is_shown_as_exact_has_no_gains() -> None:
    """Beside outputs of 1e13 the noise of the others is there, but less than what can be shown."""
    net = """m (float[N,24] x) => (float[N,30] y) <float[24,6] w, float far = {1e13}> {
        h = MatMul (x, w)  a = Abs (x)  b = Add (a, far)  y = Concat <axis=1> (h, b) }"""
    found, _ = run(net, f"{GPTQ},correct-bias", samples(parse_model(ONE)))
    assert {e.sqnr_db for e in found.entries} == {200.0}
    assert {e.gain_db for e in found.entries[1:]} == {0.0}
