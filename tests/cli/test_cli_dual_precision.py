"""Recipe `dpq` from the command line: files, what `inspect` shows, what `cim` says."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.cli_runner import error_lines, lpcompile
from tests.support import parse_model, random_feeds

MLP = """m (float[4,40] x) => (float[4,9] y) <float[40,16] w, float[16] b, float[16,9] v> {
    h = Gemm (x, w, b)  r = Relu (h)  y = MatMul (r, v)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = parse_model(MLP)
    onnx.save(proto, tmp_path / "mlp.onnx")
    samples = np.stack([random_feeds(proto, seed=i)["x"] for i in range(8)])
    np.savez(tmp_path / "samples.npz", x=samples)
    return tmp_path / "mlp.onnx"


def test_from_file_to_file(model: Path) -> None:
    out, samples = model.parent / "out", model.parent / "samples.npz"
    options = ("--recipe", "dpq", "--calibration-data", samples, "-o", out)
    assert lpcompile(model, "-t", "ort", *options).exit_code == 0
    report = json.loads((out / "report.json").read_text())
    assert {layer["weight_format"] for layer in report["layers"]} == {"int4"}
    assert {layer["activation_format"] for layer in report["layers"]} == {"float8_e4m3fn"}
    assert any("FP8" in a["what"] for a in report["assumptions"])
    rows = json.loads(lpcompile("inspect", out / "model.onnx", "--json").stdout)["layers"]
    assert [(r["op"], r["format"], r["granularity"]) for r in rows] == [
        ("Gemm", "int4", "group64"),
        ("MatMul", "int4", "group64"),
    ]
    assert [r["weight_bytes"] for r in rows] == [layer["weight_bytes"] for layer in report["layers"]]


def test_cim_refuses_in_one_line(model: Path) -> None:
    words = (model, "-t", "cim", "--recipe", "dpq", "-o", model.parent / "out")
    error, hint = error_lines(*words, code=5)
    assert error == "error: target 'cim' has no FP8 arithmetic, which 'dual-precision' is made for"
    assert hint == "hint: use --recipe w4a8: 4-bit weights and 8-bit integers"
    assert not (model.parent / "out").exists()
