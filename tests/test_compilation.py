"""One compilation from end to end: determinism, budgets, the way back to float, checks between passes."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile import emission
from lpcompile.errors import BudgetError, InputError, LpcompileError, PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_batchnorm import FoldBatchnorm
from lpcompile.pipeline import PassContext
from lpcompile.recipes import load_recipe
from lpcompile.records import PassReport
from lpcompile.runtime import gate
from lpcompile.runtime.layer_check import LayerCheck
from tests.cli.cli_runner import lpcompile as run_lpcompile
from tests.networks import FOUR_BIT, compiled_toy, toy, toy_calls, without_costs
from tests.support import parse_model

ROOT = Path(__file__).resolve().parents[1]

TOY = "residual_add"
EMITS = ("functions", "standard", "qdq")


@pytest.fixture(autouse=True)
def integers_wherever_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


def compiled(name: str = TOY, recipe: str = "int8", **options: Any) -> lpcompile.Artefacts:
    return lpcompile.compile(toy(name), calibration=toy_calls(name), recipe=recipe, **options)


def model_bytes(made: lpcompile.Artefacts) -> bytes:
    return bytes(made.model.SerializeToString(deterministic=True))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: without_times(v)
            for k, v in value.items()
            if k not in ("seconds", "latency_ms", "latency_ratio")
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def kernels(made: lpcompile.Artefacts) -> dict[str, str]:
    return {name: layer["kernel"] for name, layer in tomllib.loads(made.decisions)["layers"].items()}


def absurd_recipe(folder: Path, bound_db: float, base: str = "int8") -> str:
    """A recipe whose least SQNR nothing with fewer bits than float can reach."""
    text = load_recipe(base).text
    path = folder / "absurd.toml"
    path.write_text("\n".join(f"min-sqnr-db = {bound_db}" if line.startswith("min-sqnr-db") else line
                              for line in text.splitlines()))  # fmt: skip
    return str(path)


@pytest.mark.sweep
@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("recipe", ["int8", "w4a8", "w4a4"])
def test_two_runs_are_byte_identical(recipe: str, emit: str) -> None:
    first, second = compiled_toy(TOY, recipe, emit=emit), compiled(recipe=recipe, emit=emit)
    assert model_bytes(first) == model_bytes(second)
    assert first.decisions == second.decisions
    assert without_times(first.report) == without_times(second.report)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["concat_branches", "matmul_bias", "shared_weights", "depthwise", "if_body"])
@pytest.mark.parametrize("emit", EMITS)
def test_a_replay_is_byte_identical(name: str, emit: str, tmp_path: Path) -> None:
    first = compiled_toy(name, "w4a8", emit=emit)
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions)
    again = compiled(name, recipe="w4a8", emit=emit, decisions=file)
    assert model_bytes(again) == model_bytes(first)
    assert again.decisions == first.decisions
    assert again.report["warnings"] == first.report["warnings"]


@pytest.mark.sweep
@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "int8"},
        {"recipe": "w4a4"},
        *({"recipe": "w4a8", "weight_format": f} for f in FOUR_BIT),
        {"recipe": "w4a8", "weight_format": "posit8"},
        {"recipe": "int8", "weight_format": "float8_e4m3fn"},
        {"recipe": "w4a8", "group_size": 0},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_a_replay_of_every_format(options: dict[str, Any], tmp_path: Path) -> None:
    """The decisions alone carry format, groups and ranges: the replay gets no other option."""
    first = compiled_toy(TOY, **options)
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions)
    again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
    assert model_bytes(again) == model_bytes(first)


def test_a_replay_without_data_needs_none(tmp_path: Path) -> None:
    """Ranges stand in the decisions; only the bias correction wants samples."""
    file = tmp_path / "decisions.toml"
    file.write_text(compiled_toy(TOY, "w4a8").decisions)
    again = lpcompile.compile(toy(TOY), decisions=file)
    assert set(kernels(again).values()) == {"integer"}
    assert any("other calibration data" in w for w in again.report["warnings"])


def test_other_models_and_data_are_named(tmp_path: Path) -> None:
    file = tmp_path / "decisions.toml"
    file.write_text(compiled_toy(TOY).decisions)
    other = toy(TOY).__class__()
    other.CopyFrom(toy(TOY))
    weights = np.frombuffer(other.graph.initializer[0].raw_data or b"", np.float32).copy()
    if weights.size:
        other.graph.initializer[0].raw_data = (weights * 3).tobytes()
    else:
        other.graph.initializer[0].float_data[0] *= 3
    made = lpcompile.compile(other, calibration=toy_calls(TOY, 5), decisions=file)
    warnings = "\n".join(made.report["warnings"])
    assert "the decisions were made for another model" in warnings
    assert "the decisions were made with other calibration data" in warnings
    assert "its codes are not those of the decisions" in warnings


def test_a_layer_kept_float_says_so() -> None:
    made = compiled(keep_float=("Conv_0",))
    rows = {r["name"]: r for r in made.report["layers"]}
    assert rows["Conv_0"]["weight_format"] == "float32"
    assert rows["Conv_0"]["reason"] == "kept float on request"
    assert rows["Conv_2"]["weight_format"] == "int8"
    with pytest.raises(InputError, match="there is no node 'Conv_1'") as caught:
        compiled(keep_float=("Conv_1",))
    assert caught.value.hint is not None
    assert "Conv_" in caught.value.hint


@pytest.mark.sweep
@pytest.mark.parametrize(
    "bounds",
    [{"avg-bits": 13.0}, {"bytes": 1e6}, {"sqnr-db": 15.0}, {"agreement": 0.5}],
    ids=lambda b: next(iter(b)),
)
def test_a_budget_that_is_met(bounds: dict[str, float]) -> None:
    assert compiled("depthwise", budget=bounds).report["layers"]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"avg-bits": 2.0}, r"avg-bits is 8\.889, the bound is 2"),
        ({"bytes": 10.0}, "bytes is"),
        ({"sqnr-db": 199.0}, "sqnr-db is"),
        ({"avg-bits": 12.0, "sqnr-db": 199.0}, "sqnr-db is"),
    ],
)
def test_a_budget_that_is_not_met(bounds: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=message) as caught:
        compiled(budget=bounds, output=tmp_path / "out")
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_too_low_an_sqnr_ends_with_kernels_that_reach_it(tmp_path: Path) -> None:
    """Float activations first: 8-bit weights alone reach what weights and activations together do not."""
    usual = compiled_toy(TOY).report["quality"]["sqnr_db_output"]
    made = compiled(recipe=absurd_recipe(tmp_path, usual + 1))
    assert set(kernels(made).values()) == {"weight-only"}
    assert made.report["quality"]["sqnr_db_output"] >= usual + 1
    falls = next(p for p in made.report["passes"] if p["name"] == "fall-back")
    assert {c["node"] for c in falls["changes"]} == {"Conv_0", "Conv_2"}
    assert all("is below the recipe's" in r["reason"] for r in made.report["layers"])
    assert any(w.startswith("2 layers fell back: output SQNR") for w in made.report["warnings"])


def test_a_replay_of_what_fell_back_is_byte_identical(tmp_path: Path) -> None:
    recipe = absurd_recipe(tmp_path, compiled_toy(TOY).report["quality"]["sqnr_db_output"] + 1)
    first = compiled(recipe=recipe)
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions)
    again = compiled(recipe=recipe, decisions=file)
    assert model_bytes(again) == model_bytes(first)
    assert "fall-back" not in [p["name"] for p in again.report["passes"]]


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_an_sqnr_that_nothing_reaches_ends_in_float(recipe: str, tmp_path: Path) -> None:
    made = compiled(recipe=absurd_recipe(tmp_path, 190.0, recipe))
    assert set(kernels(made).values()) == {"float"}
    assert {r["weight_format"] for r in made.report["layers"]} == {"float32"}
    assert all("is below the recipe's" in r["reason"] for r in made.report["layers"])
    assert made.report["quality"]["sqnr_db_output"] > 100


def test_a_layer_that_fails_its_reference_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[set[str]] = []

    def check(model: Any, _feeds: Any, **_rest: Any) -> list[LayerCheck]:
        names = {n.name for n in model.graph.node if n.domain == "lpcompile"}
        judged.append(names)
        return [
            LayerCheck(n, "QuantConv", 10, int(n == "Conv_0"), float(n == "Conv_0")) for n in sorted(names)
        ]

    monkeypatch.setattr(gate, "check_layers", check)
    made = compiled()
    rows = {r["name"]: r for r in made.report["layers"]}
    assert rows["Conv_0"]["weight_format"] == "float32"
    assert "1 layer differs from the numpy reference: Conv_0" in rows["Conv_0"]["reason"]
    assert rows["Conv_2"]["weight_format"] == "int8"
    assert "Conv_0" in judged[0]
    assert "Conv_0" not in judged[-1]


def test_a_graph_that_never_passes_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(emission, "judge", lambda *_, **__: gate.Verdict(failure="it explodes"))
    with pytest.raises(PassError, match="it explodes") as caught:
        compiled(output=tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_verify_measures_after_every_pass() -> None:
    made = compiled("conv_bn_relu", verify=True, recipe="w4a8")
    found = {p["name"]: p["metrics"].get("sqnr_db") for p in made.report["passes"]}
    assert found["fold-batchnorm"] > 100
    assert found["quantize-weights"] < 60
    assert made.report["quality"]["sqnr_db_output"] > 10


def test_verify_catches_a_pass_that_changes_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FoldBatchnorm.run

    def wrong(self: FoldBatchnorm, graph: LpGraph, ctx: PassContext) -> PassReport:
        report = right(self, graph, ctx)
        (conv,) = graph.nodes("Conv")
        weight = conv.inputs[1]
        assert weight is not None
        graph.set_weights(conv, weight.values * np.float32(1.001), None)
        return report

    monkeypatch.setattr(FoldBatchnorm, "run", wrong)
    with pytest.raises(PassError, match="pass 'fold-batchnorm' changed the outputs") as caught:
        compiled("conv_bn_relu", verify=True, recipe="fp32")
    assert caught.value.hint == "this is a bug of lpcompile: please report it with the model"
    assert compiled("conv_bn_relu", recipe="int8").report["layers"]  # unasked, a 60 dB error goes unseen


def test_a_benchmark_times_both_models() -> None:
    latency = compiled(benchmark=True).report["verification"]["latency_ms"]
    assert set(latency) == {"float", "compiled"}
    assert min(latency.values()) > 0


def test_an_opset_is_raised_on_request() -> None:
    made = compiled(opset=21)
    assert [e.version for e in made.model.opset_import if not e.domain] == [21]


@pytest.mark.thorough
def test_options_override_the_recipe() -> None:
    rows: Sequence[dict[str, Any]] = compiled(recipe="int8", weight_format="posit4").report["layers"]
    assert {r["weight_format"] for r in rows} == {"posit4"}
    assert {r["weight_granularity"] for r in compiled_toy(TOY, "w4a8", group_size=0).report["layers"]} == {
        "channel"
    }
    assert {r["weight_granularity"] for r in compiled_toy(TOY, "w4a8", group_size=16).report["layers"]} == {
        "group16"
    }
    only = compiled(passes="fold-constants,canonicalize,fold-batchnorm")
    assert [p["name"] for p in only.report["passes"]] == [
        "fold-constants",
        "canonicalize",
        "fold-batchnorm",
        "emit",
    ]
    assert {r["reason"] for r in only.report["layers"]} == {"the pipeline quantises nothing"}


@pytest.mark.parametrize("bad", [{"weight_format": "int99"}, {"passes": "quantise"}, {"recipe": "int9"}])
def test_unknown_names_have_a_near_match(bad: dict[str, str]) -> None:
    with pytest.raises(LpcompileError) as caught:
        compiled(**bad)
    assert caught.value.hint


def test_everything_there_is_to_watch_from_the_command_line(tmp_path: Path) -> None:
    """The real compiler under every option that shows what it does."""
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    onnx.save(toy(TOY), model)
    np.savez(data, x=np.concatenate([c["x"] for c in toy_calls(TOY)]))
    words = (model, "-t", "ort", "-o", tmp_path / "out", "--calibration-data", data, "--recipe", "w4a8")
    watching = (
        "--save-temps",
        "--verify",
        "--time-passes",
        "--benchmark",
        "--print-after",
        "canonicalize",
        "-vv",
    )
    result = run_lpcompile(*words, *watching)
    assert result.exit_code == 0, result.stderr
    assert "# after pass 2, canonicalize" in result.stderr
    assert "quantize-weights" in result.stderr
    assert "total" in result.stdout.splitlines()[-1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verification"]["latency_ms"]["float"] > 0
    passes = [p["name"] for p in report["passes"] if p["name"] not in ("emit", "fall-back")]
    assert len(list((tmp_path / "out" / "passes").glob("*.onnx"))) == len(passes)
    assert not run_lpcompile(*words[:3], "--recipe", "int8", "-o", tmp_path / "dry", "--dry-run").exit_code
    assert not (tmp_path / "dry").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("recipe", "rounding"), [("int8", "kernel-sums"), ("w4a8", "gptq"), ("auto", "gptq")]
)
def test_effort_zero_rounds_to_nearest_and_does_no_more(recipe: str, rounding: str) -> None:
    plain, full = compiled_toy(TOY, recipe, effort=0), compiled_toy(TOY, recipe)
    assert {r["rounding"] for r in plain.report["layers"]} == {"nearest"}
    assert rounding in {r["rounding"] for r in full.report["layers"]}
    after = {"correct-bias", "requantize-weights"} - ({"requantize-weights"} if recipe == "int8" else set())
    assert not after & {p["name"] for p in plain.report["passes"]}
    assert after <= {p["name"] for p in full.report["passes"]}


@pytest.mark.parametrize("target", ["ort", "cim"])
def test_as_many_results_as_are_found_do_not_count_as_another_shape(target: str) -> None:
    """What is above 0 near the threshold differs after rounding, and no layer falls back for that."""
    model = parse_model("""m (float[N,16] x) => (int64[K,2] y) <float[16,64] w> {
        t = MatMul (x, w)  k = Constant <value = float {0.0}> ()  c = Greater (t, k)
        z = NonZero (c)  y = Transpose (z) }""")
    calls = [{"x": np.random.default_rng(i).normal(size=(4, 16)).astype(np.float32)} for i in range(6)]
    report = lpcompile.compile(model, calibration=calls, target=target, recipe="w4a8").report
    assert report["layers"][0]["weight_format"] != "float32"
    assert any("output 'y' is not compared in" in w for w in report["warnings"])
