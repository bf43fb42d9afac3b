"""`quantize-weights{rounding=adaround}` from pipeline text: the same bytes each time, and from its decisions."""

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.api import Artefacts
from tests.cli.cli_runner import lpcompile as run_lpcompile
from tests.networks import toy, toy_calls, without_costs

TOY = "depthwise"
PIPELINE = """widen-float16, fold-constants, canonicalize, fold-batchnorm, quantize-activations,
quantize-weights{format=FORMAT, granularity=group, group-size=8, rule=output-mse, scale-format=ufloat8_e4m4,
rounding=ROUNDING, sweeps=0}, correct-bias, requantize-weights"""


@pytest.fixture(autouse=True)
def _by_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


def made(fmt: str, rounding: str = "adaround") -> Artefacts:
    passes = PIPELINE.replace("FORMAT", fmt).replace("ROUNDING", rounding)
    return lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), passes=passes)


@pytest.mark.sweep
@pytest.mark.parametrize("fmt", ["fixp4", "nf4", "lut4"])
def test_the_same_bytes_each_time_and_from_its_decisions(fmt: str, tmp_path: Path) -> None:
    first, second = made(fmt), made(fmt)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert {row["rounding"] for row in first.report["layers"]} == {"adaround"}
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.decisions == first.decisions
    plain = made(fmt, "gptq")
    assert plain.model.SerializeToString() != first.model.SerializeToString()


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    model, data, out = tmp_path / "m.onnx", tmp_path / "calls.npz", tmp_path / "out"
    onnx.save(toy(TOY), model)
    np.savez(data, x=np.concatenate([c["x"] for c in toy_calls(TOY)]))
    passes = PIPELINE.replace("FORMAT", "fixp4").replace("ROUNDING", "adaround")
    result = run_lpcompile(model, "-t", "ort", "-o", out, "--calibration-data", data, "-p", passes)
    assert result.exit_code == 0, result.stderr
    rows = json.loads((out / "report.json").read_text())["layers"]
    assert {row["rounding"] for row in rows} == {"adaround"}
    layers = tomllib.loads((out / "decisions.toml").read_text())["layers"].values()
    assert {layer["rounding"] for layer in layers} == {"adaround"}
    wrong = run_lpcompile(model, "-t", "ort", "-p", "quantize-weights{rounding=adaroud}")
    assert wrong.exit_code == 2
    assert "nearest, kernel-sums, gptq, adaround" in wrong.stderr
