"""The main command: what it hands to `lpcompile.compile`, what it refuses, what it prints."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lpcompile.cli._options import EMIT_FORMS
from lpcompile.ir.io import load
from lpcompile.records import PassReport
from lpcompile.registry import pass_class
from lpcompile.target import EMIT_FORMS as TARGET_EMIT_FORMS
from lpcompile.target import Options
from tests.cli.cli_runner import error_lines, lpcompile, small_model

REPORT: dict[str, Any] = {
    "schema": 1,
    "created_with": {"options": {}, "seed": 0},
    "model": {"path": "small.onnx"},
    "target": "ort",
    "recipe": "int8",
    "warnings": ["mind this"],
    "passes": [{"name": "canonicalize", "seconds": 0.25, "changes": [], "skips": []}],
    "layers": [{"name": "fc", "weight_format": "int8"}],
    "totals": {"bits_per_weight": 8.0, "weight_bytes": 6},
    "quality": {"samples": 0, "sqnr_db_output": float("nan")},
    "verification": {},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for the compiler: keeps what it was asked and writes an empty model."""
    asked: list[dict[str, Any]] = []

    def compile(model: Path, *, output: Path | None, **rest: Any) -> SimpleNamespace:
        asked.append({"model": model, "output": output, **rest})
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / "model.onnx").touch()
        return SimpleNamespace(report=REPORT, files={})

    module: Any = ModuleType("lpcompile.api")
    module.compile = compile
    monkeypatch.setitem(sys.modules, "lpcompile.api", module)
    return asked


def test_defaults_are_those_of_options(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model(tmp_path)
    assert lpcompile("small.onnx", "-t", "ort").exit_code == 0
    (asked,) = calls
    assert asked["options"] == Options()
    assert asked["output"] == Path("small-ort")
    assert (asked["model"], asked["target"], asked["calibration"]) == (Path("small.onnx"), "ort", None)


def test_every_option_arrives(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    (tmp_path / "d.toml").touch()
    words = [
        "-t",
        "ort",
        "--calibration-data",
        "d.npz",
        "--recipe",
        "w4a8",
        "--weight-format",
        "posit4",
        "--activation-format",
        "uint4",
        "--group-size",
        "64",
        "--budget",
        "avg-bits=4.5,agreement=0.99",
        "--keep-float",
        "a",
        "--keep-float",
        "b/c",
        "--emit",
        "qdq",
        "--opset",
        "19",
        "--input-shape",
        "x=4x2",
        "--input-shape",
        "z=1",
        "-O0",
        "--seed",
        "7",
        "-p",
        "canonicalize",
        "--print-after",
        "canonicalize",
        "--save-temps",
        "--verify",
        "--benchmark",
        "--force",
        "--threads",
        "2",
    ]
    out = tmp_path / "out"
    # Options may stand before the model too.
    result = lpcompile(*words, small_model(tmp_path), "-o", out, "--decisions", tmp_path / "d.toml")
    assert result.exit_code == 0, result.stderr
    (asked,) = calls
    assert asked["calibration"] == "d.npz"
    assert asked["output"] == out
    expected = Options(
        recipe="w4a8",
        passes="canonicalize",
        weight_format="posit4",
        activation_format="uint4",
        group_size=64,
        budget={"avg-bits": 4.5, "agreement": 0.99},
        decisions=tmp_path / "d.toml",
        keep_float=("a", "b/c"),
        emit="qdq",
        opset=19,
        input_shapes={"x": (4, 2), "z": (1,)},
        seed=7,
        effort=0,
        verify=True,
        benchmark=True,
        save_temps=True,
        print_after=("canonicalize",),
        force=True,
        threads=2,
    )
    assert asked["options"] == expected


def test_the_forms_are_those_of_the_target() -> None:
    assert EMIT_FORMS == TARGET_EMIT_FORMS


def test_the_summary_goes_to_stdout(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    out = tmp_path / "out"
    result = lpcompile(small_model(tmp_path), "-t", "ort", "-o", out, "--time-passes")
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert f"wrote     {out}: model.onnx, decisions.toml, report.json, report.html" in lines
    assert "warning   mind this" in lines
    assert lines[-2].split() == ["canonicalize", "250", "0", "0"]


def test_json_is_one_document(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    result = lpcompile(small_model(tmp_path), "-t", "ort", "-o", tmp_path / "out", "--json", "--time-passes")
    quality = {"samples": 0, "sqnr_db_output": None}
    assert json.loads(result.stdout) == {**REPORT, "quality": quality}


def test_quiet_says_nothing(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    result = lpcompile(small_model(tmp_path), "-t", "ort", "-o", tmp_path / "out", "-q")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


def test_nothing_is_overwritten_without_force(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    model, out = small_model(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").touch()  # a file that is not ours is no obstacle
    assert lpcompile(model, "-t", "ort", "-o", out).exit_code == 0
    assert error_lines(model, "-t", "ort", "-o", out, code=6) == [
        f"error: {out}: the folder holds model.onnx of an earlier run",
        "hint: overwrite with --force, or choose another folder with --output",
    ]
    assert len(calls) == 1
    assert lpcompile(model, "-t", "ort", "-o", out, "--force").exit_code == 0
    assert lpcompile(model, "-t", "ort", "-o", out, "--dry-run").exit_code == 0
    assert calls[-1]["output"] is None
    assert error_lines(model, "-t", "ort", "-o", model, code=6)[0].endswith("this is a file, not a folder")


def test_what_is_refused_before_any_work(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    model = small_model(tmp_path)
    lines = error_lines(model, "-t", "ort", "--print-after", "canonicalise", code=2)
    assert lines[1] == "hint: did you mean 'canonicalize'?"
    lines = error_lines(model, "-t", "ort", "--decisions", tmp_path / "no.toml", code=3)
    assert lines[0] == f"error: {tmp_path / 'no.toml'}: there is no such file"
    assert not calls


def test_a_file_called_like_a_command(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model(tmp_path, "inspect")
    small_model(tmp_path, "plainname")
    for words in (["./inspect"], ["compile", "inspect"], ["plainname"]):
        assert lpcompile(*words, "-t", "ort", "--force").exit_code == 0
    assert [c["model"].name for c in calls] == ["inspect", "inspect", "plainname"]


def observed(tmp_path: Path, calls: list[dict[str, Any]], *words: str) -> str:
    """Stderr after a pass that changed one node and left one alone, and after a second pass."""
    model = small_model(tmp_path)
    lpcompile(model, "-t", "ort", "-o", tmp_path / "out", *words)
    observe = calls[0]["observe"]
    report = PassReport("canonicalize", seconds=0.0025)
    report.change("fc", "renamed", "a", "b")
    report.skip("gemm", "no bias")

    @click.command()
    def show() -> None:
        observe(0, pass_class("canonicalize")(), load(model), report)
        observe(1, pass_class("fold-constants")(), load(model), PassReport("fold-constants"))

    return CliRunner().invoke(show, catch_exceptions=False).stderr


def test_print_after_prints_the_graph_on_stderr(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    shown = observed(tmp_path, calls, "--print-after", "canonicalize")
    assert shown.startswith("# after pass 0, canonicalize\n")
    assert "MatMul (x, w)" in shown
    assert "fold-constants" not in shown


def test_verbose_tells_of_passes(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    first, second = "canonicalize: 1 change, 1 skip, 2.5 ms", "fold-constants: 0 changes, 0 skips, 0.0 ms"
    assert observed(tmp_path, calls, "-v").splitlines() == [first, second]


def test_twice_verbose_tells_of_changes(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    lines = observed(tmp_path, calls, "-vv").splitlines()
    assert lines[1:3] == ["  fc: renamed a b", "  gemm: left alone: no bias"]


def test_quiet_observers(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    assert observed(tmp_path, calls) == ""


@pytest.mark.parametrize("words", [("--machine", "m"), ("--strict",), ("--host", "fc")])
def test_options_of_machines_are_usage_errors_elsewhere(tmp_path: Path, words: tuple[str, ...]) -> None:
    error, hint = error_lines(small_model(tmp_path), "-t", "ort", *words, code=2)[-2:]
    assert error == f"error: {words[0]} means nothing to target 'ort'"
    assert "--target cim" in hint


def test_options_of_machines_arrive(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    words = ("--machine", "m", "--strict", "--host", "a", "--host", "b")
    result = lpcompile(small_model(tmp_path), "-t", "cim", "-o", tmp_path / "out", *words)
    assert result.exit_code == 0, result.stderr
    assert calls[0]["options"] == Options(machine="m", strict=True, host=("a", "b"))
    assert calls[0]["target"] == "cim"


def test_cim_emits_no_qdq(tmp_path: Path) -> None:
    error = error_lines(small_model(tmp_path), "-t", "cim", "--emit", "qdq", code=2)[-2]
    assert "cannot emit 'qdq'" in error
