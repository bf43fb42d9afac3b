"""`run-on-integers`: which form layers of `dual-precision` take, and that ONNX Runtime computes what the codes say."""

import sys
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import lpcompile
from lpcompile.errors import DecisionsError, PassError, PassOptionError, PipelineError
from lpcompile.passes.run_on_integers import RunOnIntegers
from lpcompile.plan import Kernel
from lpcompile.quant.eighth_image import CodeBlocks, EighthImage, as_eighths
from lpcompile.runtime.reference import evaluate
from tests.passes.dual_networks import MLP
from tests.passes.test_dual_precision import DPQ, network
from tests.quantizing import GRAPH_PASSES, quantized
from tests.support import constants_of, parse_model, random_feeds, run_model

FORMS = "run-on-integers{cost=none,least-db=0}"
WIDE = DPQ.replace(",least-inputs=0", "")
DECODER = """m (float[1,64] x) => (float[1,96] y) <float[64,64] w, float[64] b, float[64,96] v> {
    h = Gemm (x, w, b)  r = Relu (h)  y = MatMul (r, v)
}"""
BLOCKS = "dual-precision{group-size=32,least-input-db=0,least-inputs=0}"


def stored_integers(inputs: list[NDArray[Any]], rows: int, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Int8 rows and their scales of codes, group scales, steps and s1 as a file has them, by `ml_dtypes`."""
    codes, scales, steps, first = inputs
    nibbles = np.stack([codes.reshape(-1) & 15, codes.reshape(-1) >> 4], axis=-1).reshape(rows, -1)
    integers = (nibbles.astype(np.int16) ^ 8) - 8
    spread = np.repeat(scales.astype(np.float32), size, axis=1)[:, : integers.shape[1]]
    eighths = (integers * spread).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    w8 = np.clip(np.rint(eighths / steps.astype(np.float32)[:, None]), -128, 127)
    return w8.astype(np.int64), steps.astype(np.float32) * first.astype(np.float32)


def test_every_layer_keeps_its_codes_and_runs_on_integers() -> None:
    before, found = quantized(network(), DPQ), quantized(network(), f"{DPQ},{FORMS}")
    kernels = {n.op: found.layers[n.name].kernel for n in found.graph.layers()}
    assert kernels == {"Conv": Kernel.INTEGER, "Gemm": Kernel.INTEGER, "MatMul": Kernel.FLOAT_OUT}
    for name, layer in found.layers.items():
        assert isinstance(layer.tensor, EighthImage)
        assert as_eighths(layer.tensor) == before.layers[name].tensor
        assert layer.weight == before.layers[name].weight
        x = before.graph.node(name).inputs[0]
        assert x is not None
        assert layer.float8_input == before.graph.plan.activations[x.name].scale
    assert {a.format for a in found.graph.plan.activations.values()} == {"uint8"}
    assert found.sqnr_db() > before.sqnr_db() - 1
    told = {c.node: c for c in found.reports["run-on-integers"].changes}
    assert told.keys() == found.layers.keys()
    for name, layer in found.layers.items():
        assert told[name].before.endswith("dB as FP8")
        assert told[name].after.endswith("dB")
        assert layer.reason.startswith("integer form, ")


def test_runtime_multiplies_what_the_file_stores() -> None:
    """A Gemm into a MatMul, with sums in int64 from the initialisers."""
    found = quantized(MLP, f"{DPQ},{FORMS}")
    model, feeds = found.emitted(), random_feeds(parse_model(MLP), seed=5)
    held, x = constants_of(model), feeds["x"]
    gemm, matmul = (
        next(n for n in model.graph.node if n.op_type.startswith(f"Quant{op}")) for op in ("Gemm", "MatMul")
    )
    assert {"QuantGemm_eighths", "QuantMatMul_eighths_float"} == {gemm.op_type, matmul.op_type}
    args = [held.get(name) for name in gemm.input]
    w8, scale = stored_integers(args[3:7], 16, 16)  # type: ignore[arg-type]
    x_scale, x_zero, y_scale, y_zero, bias = args[1], args[2], args[7], args[8], args[9]
    codes = np.clip(np.rint(x / x_scale) + x_zero, 0, 255).astype(np.int64)
    sums = (codes - int(x_zero)) @ w8.T + bias  # type: ignore[arg-type]
    real = sums.astype(np.float32) * (x_scale * scale / y_scale)
    hidden = np.clip(np.rint(real) + y_zero, 0, 255).astype(np.int64)
    w8, scale = stored_integers([held[name] for name in matmul.input[3:7]], 9, 16)
    floor = np.maximum(hidden, int(y_zero))  # type: ignore[arg-type]
    wanted = ((floor - int(y_zero)) @ w8.T).astype(np.float32) * (y_scale * scale)  # type: ignore[arg-type]
    np.testing.assert_array_equal(run_model(model, feeds)["y"], wanted)


@pytest.mark.thorough
@pytest.mark.parametrize("rounding", [DPQ, WIDE])
def test_runtime_agrees_with_the_reference_in_all_forms(rounding: str) -> None:
    found = quantized(network(), f"{rounding},{FORMS}")
    feeds = random_feeds(found.original, seed=77)
    wanted = evaluate(found.emitted(), feeds)["y"]
    for form in ("integer", "functions", "standard"):
        np.testing.assert_array_equal(run_model(found.emitted(form), feeds)["y"], wanted)
    apart = np.abs(run_model(found.emitted("qdq"), feeds)["y"] - wanted)
    assert apart.max() < 0.02 * np.abs(wanted).max()


def test_weights_of_eight_bits_are_int8_of_the_floats() -> None:
    found = quantized(network(), f"{WIDE},{FORMS}")
    formats = {n.op + str(n.attrs.get("group", 1)): found.layers[n.name].weight for n in found.graph.layers()}
    assert {k: w.format for k, w in formats.items()} == {
        "Conv1": "int4",
        "Conv8": "int8",
        "Conv2": "int8",
        "Gemm1": "int4",
        "MatMul1": "int8",
    }
    assert formats["Conv8"].rounding == "kernel-sums"
    fp8 = quantized(network(), WIDE)
    for name, layer in found.layers.items():
        if layer.weight.format == "int8":
            before = fp8.layers[name].weight_sqnr_db
            assert layer.weight_sqnr_db is not None
            assert before is not None
            assert layer.weight_sqnr_db > before + 3


# packed codes


def test_decoder_packs_where_asked_for() -> None:
    """Within half a step of every input of what codes and scales say, by `ml_dtypes` from the file."""
    found = quantized(DECODER, BLOCKS + ",run-on-integers{matrices=packed}")
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.NBITS}
    assert all(isinstance(layer.tensor, CodeBlocks) for layer in found.layers.values())
    model, feeds = found.emitted(), random_feeds(found.original, seed=3)
    held, nodes = constants_of(model), {n.name: n for n in model.graph.node}
    gemm, matmul = (nodes[n.name] for n in found.graph.layers())
    assert gemm.op_type == matmul.op_type == "BlockQuantMatMul_eighths"
    bias = found.layer("Gemm").bias_correction
    assert bias is not None
    hidden, slack = _block_product(feeds["x"], [held[i] for i in gemm.input[1:]])
    original = constants_of(found.original)
    hidden = np.maximum(hidden + original["b"] + bias, 0)
    wanted, own = _block_product(hidden, [held[i] for i in matmul.input[1:]])
    through = slack @ np.abs(_block_weights([held[i] for i in matmul.input[1:]])).T
    apart = np.abs(run_model(model, feeds)["y"] - wanted)
    assert (apart <= 1.05 * own + through).all()
    assert apart.max() > 0
    floats = found.emitted("qdq")  # MatMulNBits is not portable: the same numbers as floats
    np.testing.assert_allclose(run_model(floats, feeds)["y"], wanted, rtol=1e-4, atol=1e-4)


def _block_weights(stored: list[NDArray[Any]]) -> NDArray[np.float64]:
    codes, scales, first = stored
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(scales), -1)
    spread = np.repeat(scales.astype(np.float64), 32, axis=1)
    return np.asarray(((nibbles.astype(np.int16) ^ 8) - 8) * spread * float(first))


def _block_product(
    x: NDArray[Any], stored: list[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The product, and half a step of every input times its weight."""
    weights = _block_weights(stored)
    half = np.repeat(np.abs(x.reshape(len(x), -1, 32)).max(-1) / 254, 32, axis=1)
    return x.astype(np.float64) @ weights.T, half @ np.abs(weights).T


def test_blocks_that_do_not_fit_are_integers() -> None:
    found = quantized(MLP, f"{DPQ},run-on-integers{{cost=none,matrices=packed}}")
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.INTEGER, Kernel.FLOAT_OUT}


def test_packed_layers_that_lose_too_much_take_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[RunOnIntegers.__module__], "CLEARLY_DB", -5.0)
    found = quantized(DECODER, BLOCKS + ",run-on-integers{cost=none,matrices=packed,least-db=90}")
    unpacked = [layer for layer in found.layers.values() if layer.kernel is Kernel.DYNAMIC]
    assert unpacked
    assert all("not packed: " in layer.reason for layer in unpacked)
    assert all(isinstance(layer.tensor, EighthImage) for layer in unpacked)


# layers that stay floats


def test_layers_that_integers_would_spoil_keep_float_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """E4M3 holds small numbers beside a large one, 256 steps of one size do not."""
    monkeypatch.setattr("lpcompile.passes.harmful_ranges.RUINED_DB", -100.0)  # it would find them first
    text = """m (float[8,64] x) => (float[8,9] y) <float[64] s, float[64,9] w> { h = Mul (x, s)  y = MatMul (h, w) }"""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            values = np.ones(64, np.float32)
            values[0] = 25
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "s"))
        else:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    spoiled = quantized(model, f"{DPQ},{FORMS}")
    found = quantized(model, f"{DPQ},run-on-integers{{cost=none,matrices=integer}}")
    assert spoiled.layer("MatMul").kernel is Kernel.FLOAT_OUT
    layer = found.layer("MatMul")
    assert layer.kernel is Kernel.WEIGHT_ONLY
    assert "float form" in layer.reason
    assert "as integers" in layer.reason
    assert found.skip_reason("run-on-integers", "MatMul") == layer.reason
    assert found.sqnr_db() > spoiled.sqnr_db() + 3


def test_without_samples_ranges_are_of_the_run() -> None:
    found = quantized(MLP, f"{DPQ},{FORMS}", calls=0)
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.DYNAMIC}
    feeds = random_feeds(found.original, seed=5)
    np.testing.assert_array_equal(
        run_model(found.emitted(), feeds)["y"], evaluate(found.emitted(), feeds)["y"]
    )


# the form as an option, and decisions


def feeds_of(model: onnx.ModelProto) -> list[dict[str, NDArray[Any]]]:
    return [random_feeds(model, seed=i) for i in range(8)]


def compiled(text: str = MLP, **options: Any) -> Any:
    model = parse_model(text)
    return lpcompile.compile(
        model, calibration=feeds_of(model), **{"recipe": "dpq", "emit": "integer", **options}
    )


def test_form_in_report_and_replay(tmp_path: Any) -> None:
    made = compiled()
    assert [p["name"] for p in made.report["passes"]][-2:] == ["run-on-integers", "emit"]
    assert made.report["verification"]["elements_different"] == 0
    assert made.report["verification"]["integer_layers_checked"] == 2
    assert all(" form, " in layer["reason"] for layer in made.report["layers"])
    assert [e["step"] for e in made.report["ledger"]][-2:] == ["dual-precision", "run-on-integers"]
    path, model = tmp_path / "decisions.toml", parse_model(MLP)
    path.write_text(made.decisions)
    again = lpcompile.compile(model, calibration=feeds_of(model), decisions=path, emit="integer")
    assert again.model.SerializeToString() == made.model.SerializeToString()
    assert again.decisions.replace('recipe = "auto"', 'recipe = "dpq"') == made.decisions
    assert not [w for w in again.report["warnings"] if "decisions" in w]


def test_replay_of_rounding_again(tmp_path: Any) -> None:
    """The second rounding saw FP8 layers, of 4 and of 8 bits: a replay must see them too."""
    text = MLP.replace(
        "float[40,16] w, float[16] b, float[16,9] v", "float[40,12] w, float[12] b, float[12,9] v"
    )
    path, model = tmp_path / "decisions.toml", parse_model(text)
    passes = f"{GRAPH_PASSES},dual-precision,requantize-weights,run-on-integers{{cost=none}}"
    made = compiled(text, passes=passes)
    assert {layer["weight_format"] for layer in made.report["layers"]} == {"int4", "int8"}
    path.write_text(made.decisions)
    again = lpcompile.compile(model, calibration=feeds_of(model), decisions=path)
    assert again.model.SerializeToString() == made.model.SerializeToString()


def test_decisions_in_fp8_give_the_same_codes_in_this_form(tmp_path: Any) -> None:
    path, model = tmp_path / "decisions.toml", parse_model(MLP)
    path.write_text(compiled(emit="functions").decisions)
    again = lpcompile.compile(model, calibration=feeds_of(model), decisions=path, emit="integer")
    assert again.model.SerializeToString() == compiled().model.SerializeToString()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("float8_input = ", "float8_input = 0.3 # ", "power of two"),
        (",run-on-integers{matrices=integer,cost=none}", "", "run-on-integers"),
        ('kernel = "float-out"', 'kernel = "float8"', "its input is uint8"),
    ],
)
def test_decisions_that_mean_nothing(tmp_path: Any, old: str, new: str, words: str) -> None:
    text = compiled(passes=f"{GRAPH_PASSES},{DPQ},run-on-integers{{cost=none,matrices=integer}}").decisions
    assert old in text
    path = tmp_path / "decisions.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(DecisionsError, match=words):
        lpcompile.compile(parse_model(MLP), calibration=feeds_of(parse_model(MLP)), decisions=path)


def test_form_and_pass_belong_to_layers_in_fp8() -> None:
    with pytest.raises(PipelineError, match="plans none"):
        compiled(recipe="int8")
    with pytest.raises(PipelineError, match="leaves none"):
        compiled(passes=f"{GRAPH_PASSES},{DPQ},run-on-integers", emit="fp8-qdq")
    with pytest.raises(PassError, match="there are none"):
        quantized(MLP, "quantize-activations,quantize-weights,run-on-integers")
    with pytest.raises(PipelineError, match="cannot emit 'integer'"):
        compiled(target="cim", recipe="int8")
    with pytest.raises(PassOptionError, match="matrices"):
        quantized(MLP, f"{DPQ},run-on-integers{{matrices=some}}")


def test_as_functions() -> None:
    model = parse_model(MLP)
    planned = lpcompile.passes.dual_precision(model, calibration=feeds_of(model))
    with pytest.raises(PipelineError, match="none is planned") as caught:
        planned.materialise(emit="integer")
    assert "run_on_integers" in str(caught.value.hint)
    forms = lpcompile.passes.run_on_integers(planned, cost="none")
    written = forms.materialise(emit="integer")
    assert any(n.op_type.endswith("_eighths") or "_eighths_" in n.op_type for n in written.graph.node)


def test_effort_two_rounds_again_for_the_integers(tmp_path: Any) -> None:
    text = MLP.replace("float[40,16] w, float[16] b", "float[40,64] w, float[64] b").replace(
        "[16,9]", "[64,9]"
    )
    made, model, path = compiled(text, effort=2), parse_model(text), tmp_path / "decisions.toml"
    names = [p["name"] for p in made.report["passes"]]
    assert names[-3:] == ["run-on-integers", "requantize-weights", "emit"]
    assert names.index("dual-precision") < names.index("run-on-integers")
    path.write_text(made.decisions)
    again = lpcompile.compile(model, calibration=feeds_of(model), decisions=path)
    assert again.model.SerializeToString() == made.model.SerializeToString()


@pytest.mark.thorough
def test_codes_rounded_again_keep_their_form() -> None:
    passes = f"{DPQ},run-on-integers{{cost=none,least-db=0}}"
    once, again = (quantized(network(), passes + more) for more in ("", ",requantize-weights{finalists=0}"))
    changed = {k for k, v in again.layers.items() if v.tensor != once.layers[k].tensor}
    assert changed
    assert all(isinstance(again.layers[k].tensor, EighthImage) for k in changed)
    feeds = random_feeds(again.original, seed=7)
    np.testing.assert_array_equal(
        run_model(again.emitted(), feeds)["y"], evaluate(again.emitted(), feeds)["y"]
    )


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("later", "told"),
    [
        ("insert-lora{rank=2,keep=always}", "codes that are read as FP8"),
        ("double-quantize", "codes that are read as FP8"),
        ("quantnorm", "codes that are read as FP8"),
        ("tune-scales", "group scales are no integers"),
    ],
)
def test_passes_that_would_move_scales_leave_them(later: str, told: str) -> None:
    passes = f"{DPQ},run-on-integers{{cost=none,least-db=0}}"
    before, after = quantized(network(), passes), quantized(network(), f"{passes},{later}")
    conv = next(n.name for n in after.graph.layers() if n.op == "Conv")
    assert told in after.skip_reason(later.split("{")[0], conv)
    assert {k: v.tensor for k, v in after.layers.items()} == {k: v.tensor for k, v in before.layers.items()}


def test_runs_once() -> None:
    with pytest.raises(PassError, match="has run before"):
        quantized(MLP, f"{DPQ},{FORMS},{FORMS}")


def test_network_without_layers_to_round() -> None:
    model = parse_model("m (float[2,4] x) => (float[2,4] y) { y = Relu (x) }")
    made = lpcompile.compile(model, calibration=feeds_of(model), recipe="dpq", emit="integer")
    assert made.report["layers"] == []
    assert made.report["verification"]["runs"]


def test_tables_and_recurrent_layers_keep_what_was_decided(tmp_path: Any) -> None:
    """The form plans kernels anew, and nothing of what has none."""
    text = """m (int64[N,7] ids) => (float[N,7,48] y) <float[128,64] table, float[64,64] w, float[64,48] v> {
        [words] e = Gather (table, ids)  h = MatMul (e, w)  r = Relu (h)  y = MatMul (r, v)
    }"""
    calls = [{"ids": np.random.default_rng(i).integers(0, 128, (2, 7))} for i in range(6)]
    made = lpcompile.compile(parse_model(text), calibration=calls, recipe="dpq", emit="integer")
    assert [t["format"] for t in made.report["tables"]] == ["int8"]
    path = tmp_path / "decisions.toml"
    path.write_text(made.decisions)
    again = lpcompile.compile(parse_model(text), calibration=calls, decisions=path, emit="integer")
    assert again.model.SerializeToString() == made.model.SerializeToString()
