"""Retraining from end to end: twice the same, replayed from decisions, from Python and from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.api import TUNED_RECIPE
from lpcompile.errors import CalibrationError, PassOptionError
from tests.cli.cli_runner import error_lines
from tests.cli.cli_runner import lpcompile as command
from tests.networks import shipped, shipped_data
from tests.quantizing import RESIDUAL
from tests.support import parse_model, random_feeds

SMALL = parse_model(RESIDUAL)
OPTIONS = {"epochs": 2, "batch": 16, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty samples of the digits, with their classes by the float model."""
    with np.load(shipped_data("digits_resnet")) as archive:
        arrays = {k: archive[k][:40] for k in archive.files}
    model = lpcompile.load(shipped("digits_resnet"))
    (name, x), *_ = arrays.items()
    labels = next(iter(model.run({name: x}).values())).argmax(-1)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, **arrays, labels=labels, wrong=labels + 10)
    return path


@pytest.fixture(scope="module")
def once(data: Path) -> lpcompile.Artefacts:
    """From the nearest codes, where two short epochs show."""
    return lpcompile.tune(shipped("digits_resnet"), data, tuning=OPTIONS, effort=0)


@pytest.fixture(scope="module")
def small() -> lpcompile.Artefacts:
    """A small network of random weights, likewise."""
    calls = [random_feeds(SMALL, seed=i) for i in range(40)]
    return lpcompile.tune(SMALL, calls, tuning=OPTIONS | {"batch": 8, "learning_rate": 0.02}, effort=0)


def metrics(artefacts: lpcompile.Artefacts) -> dict[str, float]:
    found: dict[str, float] = next(
        p["metrics"] for p in artefacts.report["passes"] if p["name"] == "tune-weights"
    )
    return found


@pytest.mark.parametrize("network", ["small", pytest.param("once", marks=pytest.mark.thorough)])
def test_the_loss_falls_and_the_report_says_so(network: str, request: pytest.FixtureRequest) -> None:
    once: lpcompile.Artefacts = request.getfixturevalue(network)
    found = metrics(once)
    assert found["loss_held_after"] < found["loss_held_before"]
    assert found["loss_train_after"] < found["loss_train_before"]
    assert 0 < found["changed_codes_share"] < 1
    assert any("retrained" in layer["reason"] for layer in once.report["layers"])
    assert "--tune" in once.report["created_with"]["command"]


@pytest.mark.slow
def test_twice_the_same_and_the_same_from_its_decisions(
    once: lpcompile.Artefacts, data: Path, tmp_path: Path
) -> None:
    again = lpcompile.tune(shipped("digits_resnet"), data, tuning=OPTIONS, effort=0)
    wanted = once.model.SerializeToString(deterministic=True)
    assert again.model.SerializeToString(deterministic=True) == wanted
    assert again.decisions == once.decisions
    decisions = tmp_path / "decisions.toml"
    decisions.write_text(once.decisions, "utf-8")
    replayed = lpcompile.compile(
        shipped("digits_resnet"), calibration=data, recipe=TUNED_RECIPE, decisions=decisions
    )
    assert replayed.model.SerializeToString(deterministic=True) == wanted
    assert replayed.decisions == once.decisions
    assert not [w for w in replayed.report["warnings"] if "codes" in w]


def test_decisions_without_samples_say_that_the_codes_are_others(
    small: lpcompile.Artefacts, tmp_path: Path
) -> None:
    decisions = tmp_path / "decisions.toml"
    decisions.write_text(small.decisions, "utf-8")
    found = lpcompile.compile(SMALL, decisions=decisions)
    assert any("its codes are not those of the decisions" in w for w in found.report["warnings"])
    assert any("weights are not retrained" in w for w in found.report["warnings"])


@pytest.mark.thorough
def test_the_pass_of_a_recipe_takes_the_options(data: Path) -> None:
    found = lpcompile.compile(
        shipped("digits_resnet"),
        calibration=data,
        passes="fold-batchnorm,quantize-activations,quantize-weights{format=posit4},tune-weights{epochs=9}",
        tuning={"epochs": "1"},
        dry_run=True,
    )
    assert metrics(found)["epochs"] == 1
    with pytest.raises(PassOptionError, match="has no option 'epoch'"):
        lpcompile.tune(shipped("digits_resnet"), data, tuning={"epoch": 1})
    with pytest.raises(CalibrationError, match="no samples to retrain on"):
        lpcompile.tune(shipped("digits_resnet"), None)


@pytest.mark.slow
def test_the_command_resumes_what_it_left(data: Path, tmp_path: Path) -> None:
    words = [
        "tune",
        str(shipped("digits_resnet")),
        "--calibration-data",
        str(data),
        "--epochs",
        "2",
        "--batch",
        "16",
    ]
    state = tmp_path / "state"
    first = command(*words, "--checkpoint", str(state), "-o", str(tmp_path / "a"))
    assert first.exit_code == 0, first.output
    assert "retrained: loss on held-out samples" in first.stdout
    assert [p.name for p in state.iterdir()] == ["epoch-00002.npz"]
    again = error_lines(*words, "--checkpoint", str(state), "-o", str(tmp_path / "b"), code=6)
    assert "checkpoints of an earlier run" in again[0]
    resumed = command(*words, "--checkpoint", str(state), "--resume", "-o", str(tmp_path / "b"))
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    assert (tmp_path / "a" / "decisions.toml").read_text() == (tmp_path / "b" / "decisions.toml").read_text()


@pytest.mark.slow
def test_the_command_learns_labels(data: Path, tmp_path: Path) -> None:
    words = ["tune", str(shipped("digits_resnet")), "--calibration-data", str(data), "--epochs", "1"]
    out = tmp_path / "out"
    done = command(*words, "--labels", "labels", "--tune-option", "clip=1", "-o", str(out), "--json")
    assert done.exit_code == 0, done.output
    pipeline = [p for p in json.loads(done.stdout)["passes"] if p["name"] == "tune-weights"]
    assert pipeline
    assert "loss=cross-entropy" in (out / "decisions.toml").read_text()
    for name, message in (("classes", "no array 'classes' of labels"), ("wrong", "out of range 0..9")):
        assert message in error_lines(*words, "--labels", name, "-o", str(tmp_path / name), code=3)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "--resume needs a folder to resume from"),
        (["--tune-option", "clip"], "--tune-option takes NAME=VALUE, not 'clip'"),
        (["--estimator", "relu"], "'relu' is not one of"),
        (["--tune-option", "clips=1"], "has no option 'clips'"),
    ],
)
def test_what_the_command_does_not_know_is_a_usage_error(
    words: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    model, out = str(shipped("digits_resnet")), str(tmp_path / "o")
    found = error_lines("tune", model, "--calibration-data", str(data), "-o", out, *words, code=2)
    assert message in " ".join(found)
