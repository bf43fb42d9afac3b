"""`lpcompile analyze --cost`."""

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.cli_runner import error_lines, lpcompile
from tests.support import parse_model

NETWORK = """
    network (float[N,2,8,S] x) => (float[N,4,8,S] y)
    <float[4,2,3,3] w, float[4] scale, float[4] bias, float[4] mean, float[4] var> {
        [first] t = Conv <pads = [1, 1, 1, 1]> (x, w)
        [norm] y = BatchNormalization (t, scale, bias, mean, var)
    }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(parse_model(NETWORK), path)
    return path


def test_json_by_hand(model: Path) -> None:
    """64 pixels of 4 channels, 18 products each; no samples are asked for."""
    result = lpcompile("analyze", model, "--cost", "--input-shape", "x=1x2x8x8", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["model"]["path"] == str(model)
    assert {k: v for k, v in document["cost"]["before"].items() if v} == {
        "mac": 256 * 18 * 1024,
        "norm": 256 * (1024 + 32),
    }
    assert "after" not in document["cost"]
    assert [n["node"] for n in document["cost"]["nodes"]["before"]] == ["first", "norm"]


def test_text_and_coefficients(model: Path) -> None:
    words = ("analyze", model, "--cost", "--input-shape", "x=1x2x8x8")
    text = lpcompile(*words).stdout
    assert text.startswith("cost of a call by acev2/int-linear; a symbolic batch is 1\n")
    assert ["norm", "270,336", "5.42%"] in [line.split() for line in text.splitlines()]
    changed = lpcompile(*words, "--coefficients", "charge-accumulate=1,shift-coeff=0.6").stdout
    assert changed.startswith("cost of a call by acev2/int-linear{shift-coeff=0.6,charge-accumulate=1};")
    assert "4,866,048" in changed  # 32 more for each product


def test_what_has_no_size_is_named(model: Path) -> None:
    text = lpcompile("analyze", model, "--cost").stdout
    assert "not counted: 2 nodes" in text
    assert "axis 3 of 'x' has no fixed size" in text
    assert text.endswith("--input-shape settles symbolic axes\n")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--cost", "--format", "int4"], "--format means nothing with --cost", "leave it out"),
        (["--cost", "--calibration-data", "d.npz"], "--calibration-data means nothing with --cost", "leave"),
        (["--coefficients", "shift-coeff=1"], "--coefficients belong to --cost", "add --cost"),
        (["--cost", "--coefficients", "shift=1"], "there is no coefficient 'shift'", "shift-coeff, charge"),
        (["--cost", "--coefficients", "shift-coeff=x"], "shift-coeff takes a number from 0 on", "=0.6"),
        (["--cost", "--coefficients", "shift-coeff=nan"], "shift-coeff takes a number from 0 on", "=0.6"),
        (["--cost", "--coefficients", "wired-shift=2"], "wired-shift takes 0 or 1, not '2'", "wired-shift=1"),
        ([], "Missing option '--calibration-data'.", "ask for --cost"),
    ],
)
def test_usage_errors(model: Path, words: list[str], message: str, hint: str) -> None:
    said, mend = error_lines("analyze", model, *words, code=2)
    assert message in said
    assert hint in mend
