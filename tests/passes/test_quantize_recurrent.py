"""`quantize-recurrent`: int8 weights by row, an LSTM on integers; every reason, what costs too much, and replay."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import lpcompile
from lpcompile.errors import DecisionsError
from lpcompile.passes.quantize_recurrent import (
    NOT_CONSTANT,
    NOT_DECIDED,
    ON_HOST,
    ON_REQUEST,
    SHARED,
    SMALL,
)
from tests.cli.cli_runner import lpcompile as on_command_line
from tests.exact_sums import as_users_have_them
from tests.support import constants_of, parse_model, run_model

STEPS, INPUTS, HIDDEN = 7, 24, 32
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PASSES = "fold-constants,canonicalize,fold-batchnorm,quantize-activations,quantize-recurrent,quantize-weights"


def text_of(
    op: str = "LSTM", directions: int = 1, attributes: str = "", more: str = "", after: str = ""
) -> str:
    rows, way = GATES[op] * HIDDEN, "bidirectional" if directions == 2 else "forward"
    return f"""m (float[{STEPS},N,{INPUTS}] x) => (float[{STEPS},{directions},N,{HIDDEN}] y)
    <float[{directions},{rows},{INPUTS}] W, float[{directions},{rows},{HIDDEN}] R, float[{directions},{2 * rows}] B> {{
        [cell] y {more} = {op} <hidden_size = {HIDDEN}, direction = "{way}" {attributes}> (x, W, R, B) {after}
    }}"""


def calls(count: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=(STEPS, 2, INPUTS)).astype(np.float32)} for _ in range(count)]


def compiled(model: onnx.ModelProto, **options: Any) -> Any:
    options = {"target": "ort", "passes": PASSES, "calibration": calls(), **options}
    return lpcompile.compile(model, **options)


def said(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in result.report["passes"] if p["name"] == "quantize-recurrent")
    return found


def rounded(weights: np.ndarray) -> np.ndarray:
    """By hand: a scale a row."""
    scale = np.abs(weights).max(2, keepdims=True) / np.float32(127)
    found: np.ndarray = np.rint(weights / scale).astype(np.float32) * scale
    return found


def with_constants(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return copy


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("directions", [1, 2])
def test_weights_are_those_of_the_codes(op: str, directions: int) -> None:
    """The emitted model computes in floats exactly what rounded weights compute."""
    model = parse_model(text_of(op, directions))
    result = compiled(model, passes=PASSES.replace("recurrent", "recurrent{kernel=weight-only}"))
    assert [c["what"] for c in said(result)["changes"]] == ["weight-only, int8 weights"]
    found = constants_of(model)
    by_hand = with_constants(model, W=rounded(found["W"]), R=rounded(found["R"]))
    feeds = calls(1)[0]
    np.testing.assert_array_equal(run_model(result.model, feeds)["y"], run_model(by_hand, feeds)["y"])
    assert not any(
        a.dtype == np.float32 and a.ndim == 3 and a.shape[-1] > 1 for a in constants_of(result.model).values()
    )


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_runs_on_integers(directions: int) -> None:
    model = parse_model(text_of("LSTM", directions))
    result = compiled(model)
    (node,) = [n for n in result.model.graph.node if n.name == "cell"]
    assert (node.domain, node.op_type) == ("com.microsoft", "DynamicQuantizeLSTM")
    feeds = calls(1)[0]
    assert 30 < sqnr_db(run_model(model, feeds)["y"], run_model(result.model, feeds)["y"]) < 60
    stored = constants_of(result.model)
    codes = next(stored[n] for n in node.input if n.endswith("W/codes"))
    scales = next(stored[n] for n in node.input if n.endswith("W/scales"))
    by_hand = rounded(constants_of(model)["W"])
    np.testing.assert_array_equal((codes * scales[:, None, :]).transpose(0, 2, 1).astype(np.float32), by_hand)


@pytest.mark.parametrize("reduced", ["on", "off"])
def test_neighbours_of_an_lstm_on_integers_may_keep_within_int16(reduced: str) -> None:
    """255 times the sum of two weights that follow each other along what a gate reads."""
    result = compiled(parse_model(text_of("LSTM")), reduce_range=reduced)
    codes = [a.astype(int) for n, a in constants_of(result.model).items() if n.endswith("/codes")]
    assert [c.ndim for c in codes] == [3, 3]
    sums = [c[:, 0 : c.shape[1] - 1 : 2] + c[:, 1::2] for c in codes]  # (directions, inputs, gates)
    assert (255 * max(np.abs(s).max() for s in sums) < 2**15) == (reduced == "on")


def test_an_lstm_on_integers_is_exact_on_this_cpu() -> None:
    """Sessions as users have them."""
    model, feeds = parse_model(text_of("LSTM")), calls(1)[0]
    with as_users_have_them():
        found = run_model(compiled(model, reduce_range="on").model, feeds)["y"]
    assert sqnr_db(run_model(model, feeds)["y"], found) > 30


def test_every_input_and_output_stays(tmp_path: Path) -> None:
    state = f"float[1,2,{HIDDEN}]"
    text = f"""m (float[{STEPS},2,{INPUTS}] x, {state} h0, {state} c0, int32[2] lens) => ({state} h, {state} c)
    <float[1,{4 * HIDDEN},{INPUTS}] W, float[1,{4 * HIDDEN},{HIDDEN}] R, float[1,{8 * HIDDEN}] B,
     float[1,{3 * HIDDEN}] P> {{
        [cell] y, h, c = LSTM <hidden_size = {HIDDEN}, direction = "reverse", clip = 2.0>
            (x, W, R, B, lens, h0, c0, P)
    }}"""
    rng = np.random.default_rng(0)
    states = {n: rng.normal(size=(1, 2, HIDDEN)).astype(np.float32) for n in ("h0", "c0")}
    samples = [{**c, **states, "lens": np.array([3, 7], np.int32)} for c in calls()]
    model = parse_model(text)
    result = compiled(model, calibration=samples)
    assert said(result)["changes"][0]["what"].startswith("dynamic")
    wanted, found = (run_model(m, samples[0]) for m in (model, result.model))
    assert all(sqnr_db(wanted[n], found[n]) > 30 for n in ("h", "c"))


def test_portable_forms_compute_in_floats() -> None:
    result = compiled(parse_model(text_of()), emit="qdq")
    assert {n.domain for n in result.model.graph.node} == {""}
    assert any("LSTM layer is floats in this form" in w for w in result.report["warnings"])


def test_the_report() -> None:
    result = compiled(parse_model(text_of()))
    (layer,) = result.report["layers"]
    held = 4 * HIDDEN * (INPUTS + HIDDEN + 2 * 4)
    assert (layer["op"], layer["weight_format"], layer["activation_format"]) == (
        "LSTM",
        "int8",
        "uint8 (dynamic)",
    )
    assert (layer["weight_bytes"], layer["weight_granularity"]) == (held, "channel")
    assert result.report["totals"]["other_bytes"] == held + 4 * 8 * HIDDEN
    assert result.report["ledger"][0]["step"] == "quantize-recurrent"
    before, after = (result.report["cost"][k]["mac"] for k in ("before", "after"))
    assert after * 16 == pytest.approx(before)


def outlier() -> onnx.ModelProto:
    """A hidden number that nobody reads hides the others of every row that reads the state."""
    model = parse_model(text_of())
    weights = constants_of(model)["R"].copy()
    weights[0, :, 0] = 0
    weights[0, ::3, 0] = 3e4
    inputs = constants_of(model)["W"].copy()
    inputs[0, ::HIDDEN] = 0  # the number is tanh(0) times something: nothing
    bias = constants_of(model)["B"].copy()
    bias[0, ::HIDDEN] = 0
    weights[0, ::HIDDEN] = 0
    return with_constants(model, R=weights, W=inputs, B=bias)


def test_what_costs_too_much_stays_float() -> None:
    result = compiled(outlier())
    assert "would leave" in said(result)["skips"][0]["reason"]
    assert result.report["layers"][0]["weight_format"] == "float32"
    loose = compiled(outlier(), passes=PASSES.replace("recurrent", "recurrent{least-db=0.001}"))
    assert said(loose)["changes"]
    middle = compiled(parse_model(text_of()), passes=PASSES.replace("recurrent", "recurrent{least-db=200}"))
    assert said(middle)["changes"][0]["what"].startswith("weight-only")


def test_reasons() -> None:
    def reason(model: onnx.ModelProto, **options: Any) -> str:
        result = compiled(model, **options)
        (skip,) = said(result)["skips"]
        assert (
            skip["reason"] in [r["reason"] for r in result.report["layers"]] or skip["reason"] == NOT_CONSTANT
        )
        return str(skip["reason"])

    model = parse_model(text_of())
    assert reason(model, keep_float=["cell"]) == ON_REQUEST
    given = text_of("RNN").replace("<float[1,32,24] W, ", "<").replace("x) =>", "x, float[1,32,24] W) =>")
    fed = [{**c, "W": np.ones((1, 32, 24), np.float32)} for c in calls()]
    assert reason(parse_model(given), calibration=fed) == NOT_CONSTANT
    tiny = text_of("RNN").replace(f"{HIDDEN}", "8").replace("float[1,64]", "float[1,16]")
    assert reason(parse_model(tiny)) == SMALL
    other = text_of(after="[all] z = Add (W, one)").replace("=> (", f"=> (float[1,{4 * HIDDEN},{INPUTS}] z, ")
    other = other.replace("B> {", f"B, float[1,{4 * HIDDEN},{INPUTS}] one> {{").replace("(W, one)", "(W, t)")
    other = other.replace("x) =>", f"x, float[1,{4 * HIDDEN},{INPUTS}] t) =>")
    more = {"t": np.ones((1, 4 * HIDDEN, INPUTS), np.float32)}
    assert reason(parse_model(other), calibration=[{**c, **more} for c in calls()]) == SHARED
    fixed = parse_model(text_of().replace(",N,", ",2,"))
    assert reason(fixed, target="cim") == ON_HOST


def test_layers_that_share_weights_share_codes() -> None:
    text = text_of(after=f"[more] v = LSTM <hidden_size = {HIDDEN}> (x, W, R)").replace(
        "=> (", f"=> (float[{STEPS},1,N,{HIDDEN}] v, "
    )
    result = compiled(parse_model(text))
    assert [c["node"] for c in said(result)["changes"]] == ["cell", "more"]
    assert sum(n.endswith("/codes") for n in constants_of(result.model)) == 2


def test_decisions_are_carried_out(tmp_path: Path) -> None:
    model, kept = parse_model(text_of()), tmp_path / "decisions.toml"
    first = compiled(model)
    kept.write_text(first.decisions)
    again = compiled(model, passes=None, decisions=kept)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.decisions == first.decisions
    entry = '[recurrent."cell"]\nkernel = "dynamic"'
    kept.write_text(first.decisions.replace(entry, entry.replace("dynamic", "weight-only")))
    edited = compiled(model, passes=None, decisions=kept)
    assert said(edited)["changes"][0]["what"].startswith("weight-only")
    assert edited.report["layers"][0]["reason"] == "written by the user"
    kept.write_text(first.decisions.replace(entry, entry.replace("dynamic", "integer")))
    with pytest.raises(DecisionsError, match="no kernel 'integer'"):
        compiled(model, passes=None, decisions=kept)
    kept.write_text(first.decisions.partition("[recurrent.")[0])
    assert said(compiled(model, passes=None, decisions=kept))["skips"][0]["reason"] == NOT_DECIDED


def test_a_second_time_and_without_samples() -> None:
    planned = lpcompile.passes.quantize_activations(parse_model(text_of()), calibration=calls())
    once = lpcompile.passes.quantize_recurrent(planned)
    assert once.reports[-1].changes
    assert not lpcompile.passes.quantize_recurrent(once).reports[-1].changes
    result = compiled(parse_model(text_of()), calibration=None)
    assert "no samples" in result.report["layers"][0]["reason"]


@pytest.mark.parametrize(("kernel", "op"), [("auto", "DynamicQuantizeLSTM"), ("weight-only", "LSTM")])
def test_inspect_lists_them(kernel: str, op: str, tmp_path: Path) -> None:
    model, passes = parse_model(text_of()), PASSES.replace("recurrent", f"recurrent{{kernel={kernel}}}")
    compiled(model, passes=passes, output=tmp_path / "out")
    onnx.save(model, tmp_path / "float.onnx")
    rows = [
        json.loads(on_command_line("inspect", str(tmp_path / n), "--json").stdout)["layers"]
        for n in ("out", "float.onnx")
    ]
    count = 4 * HIDDEN * (INPUTS + HIDDEN)
    assert [(r["name"], r["op"], r["format"], r["macs"]) for r in rows[0]] == [
        ("cell", op, "int8", STEPS * count)
    ]
    assert rows[0][0]["weight_bytes"] == count + 2 * 4 * 4 * HIDDEN
    assert [(r["op"], r["format"], r["weight_bytes"]) for r in rows[1]] == [("LSTM", "float32", 4 * count)]
