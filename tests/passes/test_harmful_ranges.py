"""Tensors that 8 bits would ruin keep floats: found by measuring, said in the report, and only where that is so."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.passes.harmful_ranges import RUINED_DB
from lpcompile.plan import Kernel
from lpcompile.quant.error import sqnr_db
from tests.quantizing import NO_COSTS, quantized
from tests.support import parse_model, random_feeds, run_model

# a logarithm reads what spans six orders of magnitude; two layers stand behind it
NET = """m (float[N,2,8] x) => (float[N,3,8] y)
<float[4,2,1] w1, float[4] b1, float scale = {10000000}, float one = {1}, float[6,4,3] w2, float[3,6,1] w3> {
    [spectrum] a = Conv (x, w1, b1)  r = Relu (a)  [scaled] s = Mul (r, scale)  t = Add (s, one)  l = Log (t)
    [wide] c = Conv <pads = [1, 1]> (l, w2)  rc = Relu (c)  [narrow] y = Conv (rc, w3)
}"""
WARNING = "float activations at"
PASSES = f"widen-float16,fold-constants,canonicalize,fold-batchnorm,{NO_COSTS},quantize-weights,correct-bias"


def network() -> onnx.ModelProto:
    model = parse_model(NET.replace("N", "1"))
    held = {t.name: t for t in model.graph.initializer}
    w = np.abs(np.random.default_rng(0).normal(size=(4, 2, 1))).astype(np.float32) + 0.1
    held["w1"].CopyFrom(onnx.numpy_helper.from_array(w, "w1"))
    held["b1"].CopyFrom(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "b1"))
    return model


def calls(count: int = 24) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": np.exp(rng.uniform(-14, 0, (1, 2, 8))).astype(np.float32)} for _ in range(count)]


def test_the_tensor_at_fault_keeps_floats_and_the_others_stay_codes() -> None:
    model = network()
    made = lpcompile.compile(model, calibration=calls(), recipe="int8", passes=PASSES)
    layers = {entry["name"]: entry for entry in made.report["layers"]}
    assert layers["spectrum"]["activation_format"] == "float32"
    assert layers["spectrum"]["weight_format"] == "int8"
    assert "in 8 bits alone would leave" in layers["spectrum"]["reason"]
    assert [layers[n]["activation_format"] for n in ("wide", "narrow")] == ["uint8", "uint8"]
    (warning,) = [w for w in made.report["warnings"] if WARNING in w]
    assert "spectrum" in warning
    fresh = {"x": np.exp(np.random.default_rng(2).uniform(-14, 0, (1, 2, 8))).astype(np.float32)}
    assert sqnr_db(run_model(model, fresh)["y"], made.run(fresh)["y"]) > 15


def test_a_machine_leaves_it_to_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    kept = lpcompile.compile(model, target="cim", calibration=calls(), recipe="int8", machine="reference")
    assert all(entry["weight_format"] == "int8" for entry in kept.report["layers"]), (
        "it is worth its energy yet"
    )
    monkeypatch.setattr("lpcompile.passes.harmful_ranges.RUINED_ON_MACHINE_DB", RUINED_DB)
    made = lpcompile.compile(model, target="cim", calibration=calls(), recipe="int8", machine="reference")
    layers = {entry["name"]: entry for entry in made.report["layers"]}
    assert layers["spectrum"]["weight_format"] == "float32"
    assert "in 8 bits alone would leave" in layers["spectrum"]["reason"]
    assert {"spectrum"} <= {entry["node"] for entry in made.report["host"]} & layers.keys() < layers.keys()
    assert made.report["quality"]["sqnr_db_output"] > 15
    decided = tmp_path / "decisions.toml"
    decided.write_text(made.decisions, "utf-8")
    again = lpcompile.compile(
        model, target="cim", calibration=calls(), decisions=decided, machine="reference"
    )
    assert again.model.SerializeToString() == made.model.SerializeToString()


MEASURED_AT_RUN_TIME = """m (float[N,32] x) => (float[N,12] y)
<float[32,16] w1, float scale = {10000000}, float one = {1}, float[16,12] w2> {
    [spectrum] a = MatMul (x, w1)  s = Mul (a, scale)  t = Add (s, one)  l = Log (t)  [wide] y = MatMul (l, w2)
}"""


def test_ranges_that_are_measured_at_run_time_can_be_at_fault_too() -> None:
    model = parse_model(MEASURED_AT_RUN_TIME.replace("N", "4"))
    held = {t.name: t for t in model.graph.initializer}
    w = np.abs(np.random.default_rng(0).normal(size=(32, 16))).astype(np.float32) * np.eye(
        32, 16, dtype=np.float32
    )
    held["w1"].CopyFrom(onnx.numpy_helper.from_array(w, "w1"))
    rng = np.random.default_rng(1)
    samples = [{"x": np.exp(rng.uniform(-14, 0, (4, 32))).astype(np.float32)} for _ in range(12)]
    made = lpcompile.compile(
        model,
        calibration=samples,
        recipe="int8",
        passes=PASSES.replace("cost=none", "cost=none,matmul=dynamic"),
    )
    layers = {entry["name"]: entry for entry in made.report["layers"]}
    assert "in 8 bits alone would leave" in layers["spectrum"]["reason"]
    assert "dynamic" in layers["wide"]["activation_format"]
    assert made.report["quality"]["sqnr_db_output"] > 25


def test_with_codes_everywhere_the_network_is_ruined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcompile.passes.harmful_ranges.RUINED_DB", -100.0)
    made = lpcompile.compile(network(), calibration=calls(), recipe="int8", passes=PASSES)
    assert not [w for w in made.report["warnings"] if WARNING in w]
    assert (
        any("fell back" in w for w in made.report["warnings"])
        or made.report["quality"]["sqnr_db_output"] < 12
    )


def test_a_replay_gives_the_same_bytes(tmp_path: Path) -> None:
    made = lpcompile.compile(network(), calibration=calls(), recipe="int8", passes=PASSES)
    (tmp_path / "d.toml").write_text(made.decisions)
    again = lpcompile.compile(
        network(), calibration=calls(), recipe="int8", passes=PASSES, decisions=tmp_path / "d.toml"
    )
    assert again.model.SerializeToString() == made.model.SerializeToString()


HEALTHY = """m (float[1,3,8,8] x) => (float[1,5] y) <float[8,3,3,3] w1, float[8] b1, float[8,5] w2> {
    [one] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)
    [two] y = MatMul (f, w2)
}"""


def test_a_healthy_network_stays_as_it_is() -> None:
    found = quantized(HEALTHY, NO_COSTS, calls=6)
    assert all(layer.kernel is not Kernel.WEIGHT_ONLY for layer in found.graph.plan.layers.values())
    assert "sqnr_db_without_harmful" not in found.reports["quantize-activations"].metrics


def test_activations_of_4_bits_are_asked_for_as_they_are() -> None:
    made = lpcompile.compile(
        network(), calibration=calls(), recipe="int8", passes=PASSES, activation_format="uint4"
    )
    assert not [w for w in made.report["warnings"] if WARNING in w]


def test_outputs_of_nothing_ruin_nothing() -> None:
    model = parse_model(HEALTHY)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    made = lpcompile.compile(
        model, calibration=[random_feeds(model, seed=i) for i in range(6)], recipe="int8"
    )
    assert not [w for w in made.report["warnings"] if WARNING in w]
