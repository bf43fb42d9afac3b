"""`lpcompile analyze`."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

import lpcompile as package
from tests.cli.cli_runner import error_lines, lpcompile
from tests.support import parse_model

NETWORK = """
    network (float[N,2,8,8] x) => (float[N,3] y)
    <float[4,2,3,3] w, float[4] scale, float[4] bias, float[4] mean, float[4] var, float[4,3] v> {
        [first] t = Conv <pads = [1, 1, 1, 1]> (x, w)
        n = BatchNormalization (t, scale, bias, mean, var)
        r = Relu (n)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        [last] u = Gemm (f, v)
        y = Softmax (u)
    }"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and data with labels."""
    rng = np.random.default_rng(0)
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(parse_model(NETWORK), model)
    np.savez(
        data, x=rng.normal(size=(24, 2, 8, 8)).astype(np.float32), y=np.arange(24) % 3, bad=np.full(24, 3)
    )
    return model, data


def test_the_document_ranks_layers_and_correlates_methods(files: tuple[Path, Path]) -> None:
    model, data = files
    result = lpcompile("analyze", model, "--calibration-data", data, "--method", "s2,s1", "--measure",
                       "--activations", "--samples", 16, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    columns = ["fisher", "gradient", "measured kl", "measured noise"]
    assert document["correlation"]["columns"] == columns
    assert (document["samples"], document["loss"], document["format"]) == (16, "kl", "int4")
    scores = [row["scores"]["fisher"] for row in document["layers"]]
    assert sorted(scores, reverse=True) == scores
    assert {row["name"] for row in document["layers"]} == {"first", "last"}
    assert set(document["seconds"]) == {"fisher", "gradient", "measured"}
    assert document["activations"][0]["scores"].keys() == {"fisher", "measured kl", "measured noise"}
    for row in document["layers"]:  # of second order, and the errors are small
        np.testing.assert_allclose(row["scores"]["fisher"], row["scores"]["measured kl"], rtol=0.5)


def test_text_csv_svg_and_page_are_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    paths = [tmp_path / f"out.{kind}" for kind in ("csv", "svg", "html")]
    result = lpcompile("analyze", model, "--calibration-data", data, "--method", "fisher,measured",
                       "--csv", paths[0], "--svg", paths[1], "--html", paths[2])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "rank correlation, layers" in result.stdout
    assert "#" in result.stdout
    rows = list(csv.DictReader(paths[0].read_text("utf-8").splitlines()))
    assert {r["name"] for r in rows} == {"first", "last"}
    assert float(rows[0]["fisher"]) > 0
    assert len(ET.parse(paths[1]).getroot().findall("{*}rect")) == 3  # background and two bars
    assert "<svg" in paths[2].read_text("utf-8")
    assert "exists" in error_lines("analyze", model, "--calibration-data", data, "--csv", paths[0], code=6)[0]


def test_labels_are_taken_from_the_data(files: tuple[Path, Path]) -> None:
    model, data = files
    result = lpcompile(
        "analyze",
        model,
        "--calibration-data",
        data,
        "--loss",
        "labels",
        "--labels",
        "y",
        "--measure",
        "--json",
    )
    document = json.loads(result.stdout)
    assert document["loss"] == "labels"
    assert "measured loss" in document["correlation"]["columns"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "taylor"], "there is no sensitivity method 'taylor'"),
        (["--format", "int99"], "int99"),
        (["--loss", "labels"], "loss 'labels' without labels"),
        (["--loss", "labels", "--labels", "z"], "no array 'z'"),
        (["--loss", "labels", "--labels", "bad"], "label 3 is no class of 0..2"),
    ],
)
def test_what_is_wrong_is_named_with_exit_code_3(
    files: tuple[Path, Path], words: list[str], message: str
) -> None:
    model, data = files
    lines = error_lines("analyze", model, "--calibration-data", data, *words, code=3)
    assert message in lines[0]
    assert lines[1].startswith("hint: ")


def test_missing_data_and_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    assert "calibration-data" in error_lines("analyze", model, code=2)[0]
    assert (
        "no such file" in error_lines("analyze", tmp_path / "no.onnx", "--calibration-data", data, code=3)[0]
    )
    assert (
        "no such file" in error_lines("analyze", model, "--calibration-data", tmp_path / "no.npz", code=3)[0]
    )


def test_a_model_without_layers_has_nothing_to_analyse(tmp_path: Path, files: tuple[Path, Path]) -> None:
    model = tmp_path / "relu.onnx"
    onnx.save(parse_model("relu (float[N,2,8,8] x) => (float[N,2,8,8] y) { y = Relu (x) }"), model)
    lines = error_lines("analyze", model, "--calibration-data", files[1], code=3)
    assert "no layer with constant weights" in lines[0]


def test_python_gives_the_same_document(files: tuple[Path, Path]) -> None:
    model, data = files
    document = package.analyze(model, data, methods=("fisher",), samples=8)
    shown = json.loads(
        lpcompile("analyze", model, "--calibration-data", data, "--samples", 8, "--json").stdout
    )
    assert [r["scores"] for r in document["layers"]] == [r["scores"] for r in shown["layers"]]
