"""The group: main form, near matches, errors and exit codes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner

from lpcompile import __version__
from lpcompile.cli import MainGroup, main
from lpcompile.cli.completion import SHELLS
from lpcompile.errors import (
    BudgetError,
    InputError,
    LpcompileError,
    OutputError,
    PipelineError,
    ProgramError,
    TargetError,
)
from tests.cli.cli_runner import SMALL, error_lines, lpcompile, small_model


def test_help_names_the_main_form_and_every_command() -> None:
    for word in ("-h", "--help"):
        result = lpcompile(word)
        assert result.exit_code == 0
        assert "lpcompile [OPTIONS] MODEL --target TARGET | COMMAND ..." in result.stdout
        for command in (
            *("compile", "inspect", "run", "diff", "verify", "disasm", "asm"),
            *("formats", "passes", "recipes", "completion"),
        ):
            assert f"\n  {command} " in result.stdout
            assert lpcompile(command, "-h").exit_code == 0


def test_version() -> None:
    assert lpcompile("-V").stdout == f"lpcompile, version {__version__}\n"


def test_no_words_show_the_help() -> None:
    result = lpcompile()
    assert result.exit_code == 2
    assert "MODEL --target TARGET" in result.stderr


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'networkx', 'logging'} & set(sys.modules)"
    code = f"import sys, lpcompile.cli; print(sorted({heavy}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            "inspct m.onnx",
            "'inspct' is neither a file nor a command. Did you mean 'inspect'?",
            "lpcompile --help",
        ),
        ("qqq", "'qqq' is neither a file nor a command.", "lpcompile --help"),
        ("m.onnx", "Missing option '-t' / '--target'. Choose from: ort", "lpcompile compile --help"),
        ("-t ort", "Missing argument 'MODEL'.", "lpcompile compile --help"),
        ("m.onnx -t tpu", "Invalid value for '-t' / '--target': 'tpu' is not", "lpcompile compile --help"),
        ("run m.onnx --quux", "No such option", "lpcompile run --help"),
        ("m.onnx -t ort --budget avg-bit=3", "--budget knows no bound 'avg-bit'", "'avg-bits'?"),
        (
            "m.onnx -t ort --budget x=3",
            "--budget knows no bound 'x'",
            "ace, acev2, agreement, avg-bits, bytes, energy-pj",
        ),
        ("m.onnx -t ort --budget avg-bits=-3", "avg-bits takes a positive number, not '-3'", "avg-bits=4.5"),
        ("m.onnx -t ort --budget avg-bits", "avg-bits takes a positive number, not ''", "avg-bits=4.5"),
        ("m.onnx -t ort --budget sqnr-db=nan", "sqnr-db takes a positive number, not 'nan'", "sqnr-db=30"),
        ("m.onnx -t ort --budget bytes=inf", "bytes takes a positive number, not 'inf'", "bytes=2000000"),
        ("m.onnx -t ort --budget agreement=99", "agreement is a rate up to 1, not 99", "agreement=0.99"),
        ("m.onnx -t ort --input-shape x=3y", "takes NAME=SHAPE, not 'x=3y'", "image=1x3x224x224"),
        ("m.onnx -t ort --input-shape 1x3", "takes NAME=SHAPE, not '1x3'", "image=1x3x224x224"),
        ("m.onnx -t ort -O4", "Invalid value for '-O': 4 is not in the range 0<=x<=3", "compile --help"),
    ],
)
def test_usage_errors(words: str, error: str, hint: str) -> None:
    lines = error_lines(*words.split(), code=2)
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    small_model(tmp_path)
    assert error_lines("nowhere/m.onnx", "-t", "ort", code=3) == [
        "error: nowhere/m.onnx: there is no such file",
        "hint: check the path of the model",
    ]
    near = error_lines("inspect", tmp_path / "smal.onnx", code=3)
    assert near[1] == f"hint: did you mean '{tmp_path / 'small.onnx'}'?"
    assert error_lines(tmp_path, "-t", "ort", code=3)[0] == f"error: {tmp_path}: this is a folder"
    assert error_lines("run", tmp_path, code=3)[0] == f"error: {tmp_path}: the folder holds no model.onnx"


def test_errors_as_json() -> None:
    (line,) = error_lines("inspect", "nowhere/m.onnx", "--json", code=3)
    expected = {"error": "there is no such file", "hint": "check the path of the model", "code": 3}
    assert json.loads(line) == {**expected, "where": "nowhere/m.onnx"}
    (line,) = error_lines("inspct", "--json", code=2)
    assert json.loads(line)["code"] == 2


def failing_group(error: BaseException) -> MainGroup:
    """A command line with one command, `fail`, which takes any words."""
    group = MainGroup("lpcompile")

    @group.command(context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1)
    def fail(words: tuple[str, ...]) -> None:
        raise error

    return group


def failed(error: BaseException, *words: str) -> Any:
    return CliRunner().invoke(failing_group(error), ["fail", *words], catch_exceptions=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LpcompileError("a\n  b", where="node"), 1, "error: node: a b"),
        (PipelineError("order"), 2, "error: order"),
        (InputError("input"), 3, "error: input"),
        (BudgetError("bound"), 4, "error: bound"),
        (TargetError("target"), 5, "error: target"),
        (OutputError("output"), 6, "error: output"),
        (OSError(errno.ENOSPC, "full", "f"), 6, "error: f: cannot be written: full"),
        (MemoryError(), 3, "error: out of memory"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (EOFError("x"), 1, "error: internal error in lpcompile: EOFError: x"),
        (ValueError("a\nb"), 1, "error: internal error in lpcompile: ValueError: a b"),
    ],
)  # fmt: skip
def test_every_error_has_its_code_and_one_line(error: BaseException, code: int, line: str) -> None:
    result = failed(error)
    assert result.exit_code == code
    assert result.stderr.splitlines()[0] == line
    assert len(result.stderr.splitlines()) <= 2
    assert result.stdout == ""


def test_bugs_ask_for_a_report_and_show_their_traceback_only_when_asked() -> None:
    assert failed(ValueError("x")).stderr.splitlines()[1] == (
        "hint: this is a bug: run again with -vv for the traceback and report it"
    )
    assert "Traceback" in failed(ValueError("x"), "-vv").stderr
    assert "Traceback" in failed(InputError("x"), "-v", "-v").stderr
    assert "Traceback" not in failed(ValueError("x"), "-v").stderr


def test_a_closed_pipe_is_quiet() -> None:
    result = failed(BrokenPipeError())
    assert (result.exit_code, result.stderr) == (141, "")


def test_colour_only_on_request_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def stderr_of(*words: str, **env: str) -> str:
        runner = CliRunner()
        return runner.invoke(failing_group(InputError("x")), ["fail", *words], color=True, env=env).stderr

    assert "\x1b[" in stderr_of()
    assert "\x1b[" not in stderr_of("--no-color")
    assert "\x1b[" not in stderr_of(NO_COLOR="1")


@pytest.mark.parametrize(
    ("word", "offered"),
    [("in", ["plain,inspect"]), ("r", ["plain,recipes", "plain,report", "plain,run", "plain,resnet.onnx"]),
     ("m/", ["file,m/"]), ("res", ["file,res"])],
)  # fmt: skip
def test_completion_offers_commands_and_files(
    word: str, offered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file beside commands would be all that bash offers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet.onnx").touch()
    env = {"_LPCOMPILE_COMPLETE": "bash_complete", "COMP_WORDS": f"lpcompile {word}", "COMP_CWORD": "1"}
    assert lpcompile(env=env).stdout.splitlines() == offered


@pytest.mark.parametrize("name", [(), *((c,) for c in main.commands)])
def test_help_is_short(name: tuple[str, ...]) -> None:
    """A screen; the options of a command are to be read, not searched."""
    assert len(lpcompile(*name, "--help").stdout.splitlines()) < 60


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_those_of_the_shell(shell: str, tmp_path: Path) -> None:
    script = lpcompile("completion", shell).stdout
    assert f"_LPCOMPILE_COMPLETE={shell}_complete" in script
    document = json.loads(lpcompile("completion", shell, "--json").stdout)
    assert document["script"].rstrip() == script.rstrip()
    if shutil.which(shell):  # a shell that is there reads it without an error
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
    assert error_lines("completion", "tcsh", code=2)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    (tmp_path / "lpcompile").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lpcompile "$@"\n')
    (tmp_path / "lpcompile").chmod(0o755)
    code = (
        'eval "$(lpcompile completion bash)"; COMP_WORDS=(lpcompile insp); COMP_CWORD=1; '
        '_lpcompile_completion lpcompile; echo "${COMPREPLY[@]}"'
    )
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.split()[0] == "inspect"


def test_python_m_is_the_same_program() -> None:
    words = [sys.executable, "-m", "lpcompile", "inspct"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.splitlines()[1] == "hint: see 'lpcompile --help'"


ODD_NAME = "red\x1b[31m\u202e\nname"


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(SMALL)
    model.graph.node[0].name = ODD_NAME
    onnx.save(model, tmp_path / "odd.onnx")
    shown = lpcompile("inspect", tmp_path / "odd.onnx").stdout
    assert shown.replace("\n", "").isprintable()
    assert r"red\x1b[31m\u202e" in shown
    for asked in ((), ("--json",)):
        result = lpcompile(tmp_path / "odd.onnx", "-t", "ort", "--keep-float", ODD_NAME[:-1], *asked)
        assert result.exit_code == 3
        assert all(line.isprintable() for line in result.stderr.splitlines())


def test_a_long_name_is_cut_in_what_is_printed() -> None:
    lines = error_lines("x/" * 3_000 + "x.onnx", "-t", "ort", code=3)
    assert max(map(len, lines)) < 1000
    assert lines[0].endswith("...")
    assert "File name too long" in lpcompile("x" * 50_000 + ".onnx", "-t", "ort", "--json").stderr
    assert "neither a file nor a command" in error_lines("x" * 500, "-t", "ort", code=2)[0]
    whole = json.loads(lpcompile("x/" * 1_500 + "x.onnx", "-t", "ort", "--json").stderr)
    assert len(whole["where"]) == 3_006


def test_a_damaged_program_always_has_a_hint() -> None:
    assert ProgramError("no").hint == "the program is damaged or was edited: compile the model again"
    assert ProgramError("no", hint="do this").hint == "do this"
