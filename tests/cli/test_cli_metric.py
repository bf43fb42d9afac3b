"""`--metric`, and bounds that are measured."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.cli_runner import error_lines, lpcompile
from tests.networks import toy, toy_calls

ROOT = Path(__file__).resolve().parents[2]
METRIC = f"""
from pathlib import Path
import numpy as np

with np.load(Path({str(ROOT)!r}) / "models" / "digits_resnet.eval.npz") as data:
    IMAGES, LABELS = data["image"], data["y"]

def accuracy(session):
    (logits,) = session.run(None, {{"image": IMAGES}})
    return (logits.argmax(1) == LABELS).mean()

def broken(session):
    return 1 / 0

def nothing(session):
    return float("nan")

number = 3
"""
FEW = """name = "few"
summary = "few candidates"
pipeline = '''
fold-constants, canonicalize, fold-batchnorm, quantize-activations,
assign-formats{formats=fixp4+int8,granularities=channel,joint=0,samples=8,rounding=nearest},
quantize-weights{format=fixp4,scale-format=ufloat8_e4m4}
'''
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line but for its bounds, in a folder that holds the metric's module."""
    (tmp_path / "my_metric.py").write_text(METRIC, "utf-8")
    (tmp_path / "few.toml").write_text(FEW, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    model = ROOT / "models" / "digits_resnet"
    return [f"{model}.onnx", "-t", "ort", "--calibration-data", f"{model}.calib.npz", "--recipe", "few.toml"]


@pytest.mark.slow
def test_the_fewest_bits_within_a_drop_of_the_metric(words: list[str], tmp_path: Path) -> None:
    asked = ["--metric", "my_metric:accuracy", "--budget", "metric-drop=0.01", "-o", "out"]
    result = lpcompile(*words, *asked, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    with np.load(ROOT / "models" / "digits_resnet.eval.npz") as data:
        images, labels = data["image"], data["y"]
    scores = []
    for path in (ROOT / "models" / "digits_resnet.onnx", tmp_path / "out" / "model.onnx"):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"image": images})
        scores.append(float((logits.argmax(1) == labels).mean()))
    assert report["metric"]["function"] == "my_metric:accuracy"
    assert [report["metric"]["float"], report["metric"]["compiled"]] == pytest.approx(scores)
    assert scores[0] - scores[1] <= 0.01
    assert report["search"]["evaluated"] <= 6
    assert report["totals"]["bits_per_weight"] < 5

    again = lpcompile(*words, "--decisions", "out/decisions.toml", "-o", "again")
    assert again.exit_code == 0, again.output
    assert onnx.load("again/model.onnx") == onnx.load("out/model.onnx")


@pytest.mark.slow
def test_the_summary_tells_of_the_search(words: list[str]) -> None:
    result = lpcompile(*words, "--budget", "sqnr-db=30,avg-bits=7", "--dry-run")
    assert result.exit_code == 0, result.output
    (line,) = [row for row in result.stdout.splitlines() if row.startswith("search")]
    assert "evaluations: sqnr-db 3" in line
    assert line.endswith("(bound 30)")


@pytest.mark.thorough
@pytest.mark.parametrize("bound", ["sqnr-db=70", "sqnr-db=70,avg-bits=5"])
def test_a_bound_out_of_reach_ends_with_the_nearest_point(words: list[str], bound: str) -> None:
    onnx.save(toy("residual_add"), "toy.onnx")
    np.savez("toy.npz", x=np.concatenate([call["x"] for call in toy_calls("residual_add")]))
    small = ["toy.onnx", *words[1:3], "--calibration-data", "toy.npz", *words[5:]]
    error, hint = error_lines(*small, "--budget", bound, code=4)
    assert error.startswith("error: sqnr-db 70 is not met: it is ")
    assert error.endswith("bits a weight, the nearest point")
    assert "loosen the bound to sqnr-db=" in hint


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("my_metric:broken", "failed: ZeroDivisionError"),
        ("my_metric:nothing", "gave nan"),
        ("my_metric:number", "is a int, no function"),
        ("my_metric:missing", "cannot be imported: AttributeError"),
        ("not_there_at_all:accuracy", "cannot be imported: ModuleNotFoundError"),
        ("accuracy", "names no function"),
    ],
)
def test_a_metric_at_fault_is_an_input_at_fault(words: list[str], metric: str, said: str) -> None:
    error, hint = error_lines(*words, "--metric", metric, "--budget", "metric-drop=0.01", code=3)
    assert said in error
    assert hint.startswith("hint: ")


def test_a_bound_on_a_metric_needs_one(words: list[str]) -> None:
    error, hint = error_lines(*words, "--budget", "metric-drop=0.01", code=2)
    assert "needs a metric" in error
    assert "--metric MODULE:FUNCTION" in hint


@pytest.mark.thorough
def test_analyze_measures_each_layer_by_the_metric(words: list[str]) -> None:
    model, data = words[0], words[4]
    asked = ["--calibration-data", data, "--samples", "16", "--format", "int2", "--metric"]
    result = lpcompile("analyze", model, *asked, "my_metric:accuracy", "--metric-layers", "3", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["metric"]["function"] == "my_metric:accuracy"
    assert document["metric"]["layers"] == 3
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(ROOT / "models" / "digits_resnet.eval.npz") as found:
        (logits,) = session.run(None, {"image": found["image"]})
        accuracy = float((logits.argmax(1) == found["y"]).mean())
    assert document["metric"]["float"] == pytest.approx(accuracy)
    drops = [row["scores"]["metric drop"] for row in document["layers"]]
    assert all(isinstance(d, float) for d in drops[:3]), "those that score most come first"
    assert drops[3:] == [None] * (len(drops) - 3)
    assert max(drops[:3]) > 0, "two bits cost something"


@pytest.mark.thorough
def test_analyze_shows_a_column_of_the_metric(words: list[str], tmp_path: Path) -> None:
    model, data = words[0], words[4]
    asked = ["--calibration-data", data, "--samples", "8", "--metric", "my_metric:accuracy"]
    result = lpcompile("analyze", model, *asked, "--metric-layers", "1", "--csv", "scores.csv")
    assert result.exit_code == 0, result.output
    assert "my_metric:accuracy of the float model 0.99" in result.stdout
    header = next(line for line in result.stdout.splitlines() if line.startswith("layer"))
    assert header.split("  ")[-2].strip() == "metric drop"
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["metric drop"] != ""
    assert {row["metric drop"] for row in rows[1:]} == {""}


def test_analyze_counts_layers_of_a_metric_only_with_one(words: list[str]) -> None:
    error, hint = error_lines(
        "analyze", words[0], "--calibration-data", words[4], "--metric-layers", "2", code=2
    )
    assert "--metric-layers needs a metric" in error
    assert "--metric MODULE:FUNCTION" in hint


@pytest.mark.slow
def test_a_width_below_the_least_is_named_as_such(words: list[str]) -> None:
    error, hint = error_lines(*words, "--budget", "sqnr-db=10,avg-bits=3", code=4)
    assert "avg-bits" in error
    assert hint.startswith("hint: ")
