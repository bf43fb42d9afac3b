"""Inputs that take one value for good: branches fold, samples need not name them, decisions remember."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.errors import InputError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.settled_inputs import settle_inputs, values_of, values_text
from tests.cli.cli_runner import lpcompile as run_lpcompile
from tests.support import parse_model, run_model

MODEL = """m (float[N,6] x, int64 rate, float[N,2] half) => (float[N,4] y)
<int64 high = {16000}, int64[1] axis = {1}, float[6,4] w1, float[6,4] w2> {
    c = Equal (rate, high)
    a = If (c) <
        then_branch = g1 () => (float[N,4] p) { [fast] p = MatMul (x, w1) },
        else_branch = g2 () => (float[N,4] q) { [slow] q = MatMul (x, w2) }>
    s = ReduceSum <keepdims = 1> (half, axis)  y = Add (a, s)
}"""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return parse_model(MODEL)


def samples(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((count, 6)).astype(np.float32),
        "half": np.full((count, 2), 0.5, np.float32),
        "rate": np.array(16000),
    }


@pytest.mark.parametrize(("rate", "layer"), [(16000, "fast"), (8000, "slow")])
def test_the_branch_that_it_chooses_is_quantised(
    model: onnx.ModelProto, rate: int, layer: str, tmp_path: Path
) -> None:
    made = lpcompile.compile(model, calibration=samples(32), recipe="int8", input_values={"rate": rate})
    assert [entry["name"] for entry in made.report["layers"]] == [layer]
    assert made.report["layers"][0]["weight_format"] == "int8"
    assert [i.name for i in made.model.graph.input] == ["x", "half"]
    feeds = {k: v for k, v in samples(32).items() if k != "rate"}
    wanted = run_model(model, {**feeds, "rate": np.array(rate)})["y"]
    np.testing.assert_allclose(made.run(feeds)["y"], wanted, atol=0.05)
    assert f"--input-value rate={rate}" in made.report["created_with"]["command"]
    (tmp_path / "d.toml").write_text(made.decisions)
    again = lpcompile.compile(model, calibration=samples(32), recipe="int8", decisions=tmp_path / "d.toml")
    assert again.model.SerializeToString() == made.model.SerializeToString()


def test_without_it_a_warning_says_what_would_help(model: onnx.ModelProto) -> None:
    made = lpcompile.compile(model, calibration=samples(32), recipe="int8")
    (warning,) = [w for w in made.report["warnings"] if "--input-value" in w]
    assert "--input-value rate=16000" in warning
    settled = lpcompile.compile(model, calibration=samples(32), recipe="int8", input_values={"rate": 16000})
    assert not [w for w in settled.report["warnings"] if "--input-value" in w]


def unsettled(count: int) -> dict[str, np.ndarray]:
    return {k: v for k, v in samples(count).items() if k != "rate"}


@pytest.mark.parametrize(("rate", "layer"), [(16000, "fast"), (8000, "slow")])
def test_layers_of_the_chosen_branch_are_ranked_and_counted(
    model: onnx.ModelProto, rate: int, layer: str
) -> None:
    values = {"rate": rate}
    ranked = lpcompile.analyze(model, unsettled(16), methods=("measured",), input_values=values)
    assert [row["name"] for row in ranked["layers"]] == [layer]
    counted = lpcompile.cost(model, input_values=values)["cost"]["nodes"]["before"]
    assert layer in [n["node"] for n in counted]
    with pytest.raises(InputError) as found:
        lpcompile.analyze(model, samples(16), methods=("measured",))
    assert "--input-value" in (found.value.hint or "")
    beside = parse_model(
        MODEL.replace("y = Add (a, s)", "b = MatMul (x, w1)  d = Add (a, b)  y = Add (d, s)")
    )
    (advice,) = lpcompile.analyze(beside, samples(16), methods=("measured",))["warnings"]
    assert "--input-value rate=16000" in advice


def test_it_is_asked_of_analyze_by_the_command_line(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **unsettled(16))  # type: ignore[arg-type]
    asked = ("analyze", tmp_path / "m.onnx", "--input-value", "rate=8000", "--json")
    for further in (("--calibration-data", tmp_path / "d.npz", "--method", "measured"), ("--cost",)):
        result = run_lpcompile(*asked, *further)
        assert result.exit_code == 0, result.output
        assert '"slow"' in result.stdout
        assert '"fast"' not in result.stdout


def test_passes_as_functions_take_it(model: onnx.ModelProto) -> None:
    """Folding puts the branch in place; without it the layers in the branch are left alone, and a warning says so."""
    values, passes = {"rate": 8000}, lpcompile.passes
    folded = passes.fold_constants(model, input_values=values)
    assert [i.name for i in folded.graph.input] == ["x", "half"]
    planned = passes.quantize_activations(folded, calibration=unsettled(32))
    assert list(passes.quantize_weights(planned).plan.layers) == ["slow"]
    unfolded = passes.quantize_activations(model, calibration=unsettled(32), input_values=values)
    assert not unfolded.plan.layers
    assert [w for w in unfolded.warnings if "fold_constants(model, input_values=...)" in w]
    wanted = run_model(model, {**unsettled(4), "rate": np.array(8000)})["y"]
    np.testing.assert_array_equal(run_model(unfolded.materialise(), unsettled(4))["y"], wanted)
    made = lpcompile.compile(unfolded)
    assert [i.name for i in made.model.graph.input] == ["x", "half"]
    with pytest.raises(InputError, match="no input 'rat'"):
        passes.fold_constants(model, input_values={"rat": 1})


def test_axes_without_a_size_have_one_element(model: onnx.ModelProto) -> None:
    graph = LpGraph.from_proto(model)
    settle_inputs(graph, {"half": 0.25})
    assert graph.value("half").values.tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "the model has no input 'rat'"),
        ({"rate": 0.5}, "input 'rate' is int64, which cannot hold 0.5"),
        ({"rate": 1e30}, "which cannot hold 1e+30"),
        ({"rate": 8000, "half": 0.5, "x": 3}, "no input is left: every output would be a constant"),
    ],
)
def test_what_cannot_be_settled(model: onnx.ModelProto, values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match="input"):
        lpcompile.compile(model, recipe="int8", input_values=values)
    with pytest.raises(InputError) as found:
        settle_inputs(LpGraph.from_proto(model), values)
    assert message in found.value.message


def test_an_output_stays() -> None:
    passed_on = parse_model(
        "m (float[2] x, float[2] k) => (float[2] y, float[2] k) { y = Add (x, k) }", check=False
    )
    with pytest.raises(InputError, match="an output, too"):
        settle_inputs(LpGraph.from_proto(passed_on), {"k": 1})


def test_values_as_text() -> None:
    values = {"sr": 16000.0, "a=b": 0.5}
    assert values_of(values_text(values)) == values
    assert values_of("") == {}
    for text in ("sr", "sr=x", "=1", "sr=inf"):
        with pytest.raises(InputError, match="is no value of an input"):
            values_of(text)
