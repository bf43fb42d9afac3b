"""The way back to float at the end: sizes that may not grow, and with --benchmark times."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile import emission
from lpcompile.errors import PassError
from lpcompile.runtime import gate
from lpcompile.runtime.benchmark import Timing
from lpcompile.runtime.layer_check import LayerCheck
from lpcompile.runtime.sizes import constant_bytes
from tests.cli.cli_runner import lpcompile as run_lpcompile
from tests.networks import toy, toy_calls, without_costs
from tests.support import assert_same_outputs, parse_model

SCALES = """g (float[1,1,4,4] x) => (float[1,96,4,4] y) <float[96,1,1,1] w> { y = Conv <kernel_shape=[1,1]> (x, w) }"""
BOTH = """g (float[1,1,4,4] x) => (float[1,96,4,4] y) <float[96,1,1,1] w, float[96,96,1,1] v> {
    a = Conv <kernel_shape=[1,1]> (x, w)
    y = Conv <kernel_shape=[1,1]> (a, v)
}"""
TIED = """g (int64[1,3] i) => (float[1,3,200] y) <float[200,24] table, float[24,24] w> {
    e = Gather (table, i)
    h = MatMul (e, w)
    t = Transpose <perm=[1,0]> (table)
    y = MatMul (h, t)
}"""
UNROLLED = """g (float[1,40] h0) => (float[1,40] h6) <float[40,40] w> {
    h1 = MatMul (h0, w)  h2 = MatMul (h1, w)  h3 = MatMul (h2, w)
    h4 = MatMul (h3, w)  h5 = MatMul (h4, w)  h6 = MatMul (h5, w)
}"""
FAST, SLOW = Timing(2.0, 1.0, 0.5, (0.4, 0.6)), Timing(1.0, 2.0, 2.0, (1.9, 2.1))


@pytest.fixture(autouse=True)
def integers_wherever_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


def made(text: str, recipe: str = "int8", **options: Any) -> tuple[ModelProto, lpcompile.Artefacts]:
    before = parse_model(text, check=False)
    return before, lpcompile.compile(before, recipe=recipe, **options)


def formats(found: lpcompile.Artefacts) -> dict[str, str]:
    return {r["name"]: r["weight_format"] for r in found.report["layers"]}


def reasons(found: lpcompile.Artefacts) -> str:
    return " ".join(r["reason"] for r in found.report["layers"])


def test_a_layer_of_more_scales_than_weights_stays_float() -> None:
    before, found = made(SCALES)
    assert formats(found) == {"Conv_0": "float32"}
    assert reasons(found).startswith("its initialisers take 480 bytes, those of the input 384")
    assert constant_bytes(found.model) == constant_bytes(before)
    falls = next(p for p in found.report["passes"] if p["name"] == "fall-back")
    assert [c["node"] for c in falls["changes"]] == ["Conv_0"]
    assert found.report["verification"]["constant_bytes"] == {"float": 384, "compiled": 384}


def test_it_is_quantised_where_the_model_shrinks_all_the_same() -> None:
    before, found = made(BOTH)
    assert set(formats(found).values()) == {"int8"}
    assert constant_bytes(found.model) < constant_bytes(before)


def test_codes_whose_sums_int32_may_not_hold_in_the_end_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a later pass had made them larger."""
    why = "a sum of its 96 products may reach 3000000000, which int32 does not hold beside a bias"
    monkeypatch.setattr(emission, "int32_obstacle", lambda tensor: why if tensor.shape == (96, 96) else "")
    _, found = made(BOTH, calibration=[{"x": np.ones((1, 1, 4, 4), np.float32)}])
    first, last = found.report["layers"]
    assert (last["reason"], last["activation_format"]) == (why, "float32")
    assert (first["weight_format"], first["activation_format"]) == ("int8", "uint8")
    assert any(w == f"layer 'Conv_1' fell back: {why}" for w in found.report["warnings"])
    falls = next(p for p in found.report["passes"] if p["name"] == "fall-back")
    assert [(c["node"], c["after"]) for c in falls["changes"]] == [("Conv_1", "weight-only")]


def test_a_tied_embedding_is_written_once() -> None:
    before, found = made(TIED, "fp32")
    assert constant_bytes(found.model) <= constant_bytes(before)
    assert any(c["what"].startswith("share constants") for p in found.report["passes"] for c in p["changes"])
    assert_same_outputs(before, found.model)


def test_a_tied_embedding_in_codes_leaves_the_head_its_own() -> None:
    before, found = made(TIED, "int8")
    assert set(formats(found).values()) == {"int8"}
    assert [t["format"] for t in found.report["tables"]] == ["float16"]
    assert constant_bytes(found.model) < constant_bytes(before)
    kept = made(TIED, "int8", keep_float=[found.report["tables"][0]["name"]])[1]
    assert formats(kept)["MatMul_3"] == "float32", "codes beside a float table would make the model larger"


@pytest.mark.parametrize("emit", ["functions", "standard", "qdq"])
def test_steps_that_share_weights_share_their_codes(emit: str) -> None:
    before, found = made(UNROLLED, emit=emit)
    assert set(formats(found).values()) == {"int8"}
    assert constant_bytes(found.model) <= constant_bytes(before) / 3
    if emit == "functions":
        assert found.report["verification"]["integer_layers_checked"] == 6
    assert found.report["quality"]["sqnr_db_output"] > 20


def test_steps_that_share_weights_take_one_format_of_auto() -> None:
    rng = np.random.default_rng(0)
    calls = [{"h0": rng.standard_normal((1, 40), np.float32)} for _ in range(24)]
    before, found = made(UNROLLED, "auto", calibration=calls, budget={"avg-bits": 5})
    (fmt,) = set(formats(found).values())
    assert fmt not in ("int8", "float32")
    assert constant_bytes(found.model) <= constant_bytes(before) / 6
    totals, layers = found.report["totals"], found.report["layers"]
    assert totals["weight_bytes"] == layers[0]["weight_bytes"], "one copy"
    assert totals["bits_per_weight"] == pytest.approx(layers[0]["bits_per_weight"])
    assert totals["bits_per_weight"] <= 5
    _, small = made(UNROLLED, "auto", calibration=calls, budget={"bytes": totals["weight_bytes"]})
    assert small.report["totals"]["weight_bytes"] <= totals["weight_bytes"]


def test_float16_values_that_stay_float_are_stored_as_float16() -> None:
    text = (
        "g (float[1,30] x) => (float[1,40] y) <float16[30,40] w> { v = Cast <to=1> (w)  y = MatMul (x, v) }"
    )
    before, found = made(text, "fp32")
    assert constant_bytes(found.model) == constant_bytes(before) == 2400
    assert formats(found) == {"MatMul_1": "float32"}
    assert_same_outputs(before, found.model)


def test_folds_that_enlarge_are_taken_back_where_nothing_else_shrinks() -> None:
    text = """g (float[1,30,30] x) => (float[1,30,30] y) <int64[2] size = {30, 30}> {
        o = ConstantOfShape (size)  t = Trilu (o)  e = Exp (t)  y = Add (x, e) }"""
    before, found = made(text, "fp32")
    assert constant_bytes(found.model) == 0
    assert any(
        w.startswith("compiled again without folds and copies that enlarge") for w in found.report["warnings"]
    )
    folding = next(p for p in found.report["passes"] if p["name"] == "fold-constants")
    assert {s["reason"] for s in folding["skips"]} >= {"its result would enlarge the model"}
    assert_same_outputs(before, found.model, rtol=1e-6)


def test_a_model_that_stays_too_large_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lpcompile.emission.compact", lambda *_: [])
    monkeypatch.setattr("lpcompile.runtime.sizes.COUNTED_ELEMENTS", 1)
    text = "g (float[1,2] x) => (float[1,2] y) { y = Clip <min=0.0, max=1.0> (x) }"
    before = parse_model(text, opset=6, check=False)
    with pytest.raises(PassError, match="its initialisers take") as caught:
        lpcompile.compile(before, recipe="int8", output=tmp_path / "out")
    assert caught.value.exit_code == 1
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_attribute_that_became_an_input_refuses_nothing() -> None:
    before = parse_model(
        "g (float[1,2] x) => (float[1,2] y) { y = Clip <min=0.0, max=1.0> (x) }", opset=6, check=False
    )
    assert lpcompile.compile(before, recipe="int8").model.graph.initializer


def test_a_file_that_would_grow_loses_its_shapes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = "\n".join(f"t{i + 1} = Neg (t{i})" for i in range(1, 100))
    before = parse_model(f"g (float[1,64] x) => (float[1,64] t100) {{ t1 = Neg (x)\n{chain} }}", check=False)
    usual = lpcompile.compile(before, recipe="fp32")
    assert len(usual.model.graph.value_info) == 99
    monkeypatch.setattr("lpcompile.runtime.sizes.FILE_GROWTH_BYTES", 2000)
    found = lpcompile.compile(before, recipe="fp32")
    assert found.model.ByteSize() <= before.ByteSize() + 2000 < usual.model.ByteSize()
    assert not found.model.graph.value_info
    assert any(c["what"].startswith("drop shapes") for p in found.report["passes"] for c in p["changes"])


def timing(monkeypatch: pytest.MonkeyPatch, *found: Timing) -> None:
    """Let the models be timed so, the last again and again."""
    times: Iterator[Timing] = iter(found)
    last = found[-1]
    monkeypatch.setattr(gate, "timed", lambda *_: next(times, last))


def benchmarked(**options: Any) -> lpcompile.Artefacts:
    name = "residual_add"
    return lpcompile.compile(toy(name), calibration=toy_calls(name), recipe="int8", benchmark=True, **options)


def kernels(found: lpcompile.Artefacts) -> set[str]:
    return {line for line in found.decisions.splitlines() if line.startswith("kernel")}


def test_a_fast_model_is_as_it_is_without_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    timing(monkeypatch, FAST)
    found = benchmarked()
    assert kernels(found) == {'kernel = "integer"'}
    assert found.report["verification"]["latency_ms"] == {"float": 2.0, "compiled": 1.0}
    assert found.report["verification"]["latency_ratio"] == [0.4, 0.5, 0.6]


@pytest.mark.parametrize(("slow", "kernel"), [(1, "weight-only"), (2, "float")])
def test_a_slow_model_falls_back_to_more_float(
    slow: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing(monkeypatch, *[SLOW] * slow, FAST)
    found = benchmarked()
    assert kernels(found) == {f'kernel = "{kernel}"'}
    assert "slower than the float model" in reasons(found)
    assert not any(c.isdigit() for c in gate.SLOWER)  # no time gets into decisions.toml
    assert any("slower than the float model" in w for w in found.report["warnings"])


def test_a_model_that_is_slow_as_floats_too_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timing(monkeypatch, SLOW)
    with pytest.raises(PassError, match="slower than the float model") as caught:
        benchmarked(output=tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def reference_graph(text: str = SCALES, **options: Any) -> lpcompile.Artefacts:
    return lpcompile.compile(parse_model(text, check=False), target="cim", recipe="int8", **options)


def test_growth_is_a_warning_where_nothing_falls_back() -> None:
    found = reference_graph()
    assert formats(found) == {"Conv_0": "int8"}
    assert any(w.startswith("the model grew: its initialisers take") for w in found.report["warnings"])
    sizes = found.report["verification"]["constant_bytes"]
    assert sizes["compiled"] == constant_bytes(found.model) > sizes["float"] == 384
    assert not any(w.startswith("the model grew") for w in reference_graph(BOTH).report["warnings"])


def test_so_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timing(monkeypatch, SLOW)
    found = reference_graph(BOTH, benchmark=True)
    assert set(formats(found).values()) == {"int8"}
    assert f"the model is {gate.SLOWER}" in found.report["warnings"]
    assert found.report["verification"]["latency_ratio"] == [1.9, 2.0, 2.1]


def test_wrong_numbers_are_an_error_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = LayerCheck("Conv_0", "DyadicConv_int8", 16, 1, 1.0)
    monkeypatch.setattr(gate, "check_layers", lambda *_, **__: [wrong])
    with pytest.raises(PassError, match="1 layer differs from the numpy reference: Conv_0"):
        reference_graph(output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_verify_finds_initialisers_that_grew(tmp_path: Path) -> None:
    small, large = parse_model(SCALES), parse_model(BOTH)
    for name, model in (("small", small), ("large", large)):
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    result = run_lpcompile("verify", tmp_path / "large.onnx", "--against", tmp_path / "small.onnx")
    assert result.exit_code == 1
    assert "384 -> 37,248 bytes of constants" in result.stdout
