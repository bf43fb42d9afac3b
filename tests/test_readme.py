"""What the documents say can be typed, can be typed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lpcompile import errors
from lpcompile.errors import LpcompileError
from lpcompile.formats.planned import planned_name
from lpcompile.plan import ROUNDINGS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


LINES = [line for block in blocks("bash") for line in block.splitlines()]
FRESH_MACHINE = [line for line in LINES if line.startswith("python3.11 -m venv")]
EXAMPLES = [line for line in LINES if line.startswith("lpcompile ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder in which the README's relative paths hold."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    return tmp_path


def python(*args: str, cwd: Path) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, *args]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_bash_line_is_known_to_this_test() -> None:
    assert [*FRESH_MACHINE, *EXAMPLES] == LINES


def test_two_commands_install_what_they_run() -> None:
    compiling, testing = (line.split(" && ") for line in FRESH_MACHINE)
    assert compiling[:2] == ["python3.11 -m venv .venv", ".venv/bin/pip install -q ."]
    assert testing == [
        "python3.11 -m venv .venv-test",
        ".venv-test/bin/pip install -q '.[test]'",
        ".venv-test/bin/python -m pytest",
    ]


@pytest.mark.slow
def test_first_command_compiles_a_shipped_model(folder: Path) -> None:
    program, *args = shlex.split(FRESH_MACHINE[0].split(" && ")[-1])
    assert program == ".venv/bin/lpcompile"
    python("-m", "lpcompile", *args, cwd=folder)
    assert "`./digits_resnet-ort`" in README
    out = folder / "digits_resnet-ort"
    assert {path.name for path in out.iterdir()} == {
        "model.onnx",
        "report.json",
        "report.html",
        "decisions.toml",
    }

    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    record = tomllib.loads((ROOT / "models" / "models.toml").read_text("utf-8"))["digits_resnet"]
    with np.load(ROOT / "models" / record["evaluation"]) as samples:
        (logits,) = session.run(None, {"image": samples["image"]})
        correct = int((logits.argmax(axis=1) == samples["y"]).sum())
    # what int8 promises, a drop of at most 0.005, this network keeps at 4.5 bits a weight
    assert record["evaluation_correct"] - correct <= 0.005 * record["evaluation_samples"]


@pytest.mark.slow
def test_examples_run_in_order(folder: Path) -> None:
    assert EXAMPLES
    for line in EXAMPLES:
        assert python("-m", "lpcompile", *shlex.split(line)[1:], cwd=folder).strip()
    with np.load(folder / "logits.npz") as result:
        assert result["logits"].shape == (64, 10)


def test_python_examples_run_in_order(folder: Path) -> None:
    program = "\n".join(blocks("python"))
    assert python("-c", program + "print(logits.shape)", cwd=folder).strip().endswith("(500, 10)")
    assert (folder / "resnet-by-hand" / "report.json").is_file()
    for path in ("resnet-by-hand/model.onnx", "resnet-static.onnx"):
        ort.InferenceSession(folder / path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "models/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_exit_codes_are_those_of_the_classes() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LpcompileError)]
    raised = {c.exit_code for c in classes}
    assert {int(code) for code in re.findall(r"^\| (\d) \|", README, re.MULTILINE)} == {0} | raised


def test_formats_named_are_formats() -> None:
    section = README.split("## Number formats")[1].split("\n## ")[0]
    first_column = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    names = re.findall(r"`([a-z]\w+)`", "\n".join(first_column))
    assert {"fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn"} <= set(names)
    assert [planned_name(name) for name in names] == names


def test_all_roundings_are_listed() -> None:
    section = README.split("## How weights are rounded")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE) == list(ROUNDINGS)


def test_every_cited_source_is_listed() -> None:
    bibliography = (ROOT / "docs" / "references.bib").read_text("utf-8")
    known = set(re.findall(r"^@\w+\{(\w+),", bibliography, re.MULTILINE))
    folders = [ROOT / name for name in ("lpcompile", "passes", "backends", "models")]
    texts = [path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py")]
    cited = set(re.findall(r"\[([a-z]+(?:19|20)\d\d[a-z]?)[\],]", "\n".join(texts)))
    assert "jacob2018" in cited
    assert cited <= known
