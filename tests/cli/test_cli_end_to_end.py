"""A shipped network through every command, and bad inputs through the real compiler."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcompile.backends.ort.target import OrtTarget
from lpcompile.runtime import checks
from lpcompile.runtime.layer_check import LayerCheck
from tests.cli.cli_runner import error_lines, lpcompile, small_model

MODELS = Path(__file__).parents[2] / "models"
MODEL, DATA = MODELS / "digits_resnet.onnx", MODELS / "digits_resnet.calib.npz"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network compiled to int8."""
    folder = tmp_path_factory.mktemp("compiled") / "out"
    result = lpcompile(MODEL, "--target", "ort", "--recipe", "int8", "-o", folder, "--calibration-data", DATA)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) <= 40  # one screen
    return folder


def test_what_is_written(out: Path) -> None:
    assert {p.name for p in out.iterdir()} == {"model.onnx", "report.json", "report.html", "decisions.toml"}


def test_inspect_shows_the_layers_of_the_report(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    layers = {row["name"]: row for row in json.loads(lpcompile("inspect", out, "--json").stdout)["layers"]}
    float_layers = json.loads(lpcompile("inspect", MODEL, "--json").stdout)["layers"]
    assert list(layers) == [r["name"] for r in report["layers"]] == [r["name"] for r in float_layers]
    for row, was in zip(report["layers"], float_layers, strict=True):
        found = layers[row["name"]]
        assert found["format"] == row["weight_format"] == "int8"
        assert found["macs"] == was["macs"]
        assert found["weight_bytes"] == row["weight_bytes"]
        assert sorted(found["weight_shape"]) == sorted(was["weight_shape"])


def test_verify_agrees_with_the_report(out: Path) -> None:
    """The report judges by some of the samples, verify by all: the figures are near, not equal."""
    words = (
        "verify",
        out,
        "--against",
        MODEL,
        "--calibration-data",
        DATA,
        "--budget",
        "agreement=0.9",
        "--json",
    )
    result = lpcompile(*words)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert all(c["ok"] for c in document["checks"])
    quality = json.loads((out / "report.json").read_text())["quality"]
    assert document["comparison"]["sqnr_db"] == pytest.approx(quality["sqnr_db_output"], abs=3)


@pytest.mark.parametrize("adds_pairs", [True, False])
def test_verify_tells_of_layers_that_this_machine_gets_wrong(
    adds_pairs: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [LayerCheck("c1", "QuantConv_int8", 64, 5, 17.0)]
    monkeypatch.setattr(checks, "check_layers", lambda *_, **__: wrong)
    monkeypatch.setattr(OrtTarget, "adds_pairs", lambda _: adds_pairs)
    result = lpcompile("verify", out, "--calibration-data", DATA)
    assert result.exit_code == 1
    assert "layers        NO   1 call differs from the numpy reference, of 1: c1" in result.stdout
    assert ("--reduce-range on" in result.stderr) == adds_pairs


def test_diff_of_inner_tensors_finds_the_quantised_ones(out: Path) -> None:
    words = ("diff", MODEL, out, "--tensors", "--calibration-data", DATA, "--json")
    rows = {t["name"]: t for t in json.loads(lpcompile(*words).stdout)["tensors"]}
    relus = [n.output[0] for n in onnx.load(MODEL).graph.node if n.op_type == "Relu"]
    scaled = {i.removesuffix("_quantized") for n in onnx.load(out / "model.onnx").graph.node for i in n.input}
    kept = [name for name in relus if f"{name}/equalized" not in scaled]
    assert 0 < len(kept) < len(relus)
    assert set(kept) <= set(rows)
    assert min(rows[name]["sqnr_db"] for name in kept) > 20


def test_run_gives_the_classes_of_the_float_model(out: Path, tmp_path: Path) -> None:
    with np.load(DATA) as data:
        np.savez(tmp_path / "feeds.npz", image=data["image"][:32])
    classes = []
    for model in (MODEL, out):
        result = lpcompile(
            "run", model, "--input", tmp_path / "feeds.npz", "-o", tmp_path / "r.npz", "--force"
        )
        assert result.exit_code == 0, result.stderr
        with np.load(tmp_path / "r.npz") as found:
            classes.append(found["logits"].argmax(1))
    assert (classes[0] == classes[1]).mean() > 0.9


def test_a_bound_that_is_not_met_writes_nothing(tmp_path: Path) -> None:
    words = (MODEL, "-t", "ort", "--recipe", "int8", "-o", tmp_path / "out", "--calibration-data", DATA)
    assert error_lines(*words, "--budget", "avg-bits=2", code=4)[0].startswith("error: avg-bits is 8.")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    result = lpcompile(model, "-t", "ort", "--recipe", "int8", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "nothing (dry run)" in result.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"small.onnx"}


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (["{d}/trunc.onnx"], {3}),
        (["{d}/text.onnx"], {3}),
        (["{d}/empty.onnx"], {3}),
        (["{d}/none.onnx"], {3}),
        (["{d}"], {3}),
        *((["{d}/ok.onnx", "--calibration-data", f"{{d}}/{k}.npz"], {3}) for k in
          ("name", "shape", "nan", "text", "none", "bad", "absent")),
        (["{d}/ok.onnx", "--recipe", "nonesuch"], {3}),
        (["{d}/ok.onnx", "--recipe", "{d}/bad.toml"], {3}),
        (["{d}/ok.onnx", "--decisions", "{d}/bad.toml"], {3}),
        (["{d}/ok.onnx", "--weight-format", "int99"], {3}),
        (["{d}/ok.onnx", "--activation-format", "int99"], {2, 3}),
        (["{d}/ok.onnx", "--input-shape", "imag=1x1x16x16"], {3}),
        (["{d}/ok.onnx", "--keep-float", "nonesuch"], {3}),
        (["{d}/ok.onnx", "-p", "nonesuch"], {2}),
        (["{d}/ok.onnx", "-p", "quantize-weights"], {2}),
        (["{d}/ok.onnx", "--recipe", "int8", "-o", "/proc/nonesuch/out"], {6}),
    ],
)  # fmt: skip
def test_bad_input_ends_in_two_lines(tmp_path: Path, words: list[str], codes: set[int]) -> None:
    good = MODEL.read_bytes()
    contents = {
        "trunc.onnx": good[: len(good) // 2],
        "text.onnx": b"hello",
        "empty.onnx": b"",
        "ok.onnx": good,
    }
    for name, content in {**contents, "bad.npz": b"PK\x03\x04junk", "bad.toml": b"[[["}.items():
        (tmp_path / name).write_bytes(content)
    shape = (4, 1, 16, 16)
    np.savez(tmp_path / "name.npz", foo=np.zeros(shape, np.float32))
    np.savez(tmp_path / "shape.npz", image=np.zeros((4, 7, 7), np.float32))
    np.savez(tmp_path / "nan.npz", image=np.full(shape, np.nan, np.float32))
    np.savez(tmp_path / "text.npz", image=np.full(shape, "x"))
    np.savez(tmp_path / "none.npz", image=np.zeros((0, *shape[1:]), np.float32))
    given = [w.format(d=tmp_path) for w in words]
    result = lpcompile("-t", "ort", "-o", tmp_path / "out", *given)
    assert result.exit_code in codes, result.output
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert "internal error" not in first
    assert second.startswith("hint: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    error_lines(small_model(tmp_path), "-t", "ort", "--recipe", "int8", "-o", tmp_path / "out", code=6)


def test_diff_of_folders_compares_reports_and_with_data_models(out: Path) -> None:
    """Two folders stand for their reports; naming inputs asks for the models."""
    document = json.loads(lpcompile("diff", out, out, "--json").stdout)
    assert document["layers"] == document["settings"] == []
    assert document["same"] > 10
    models = json.loads(lpcompile("diff", out, out, "--calibration-data", DATA, "--json").stdout)
    assert {t["sqnr_db"] for t in models["tensors"]} == {200}
