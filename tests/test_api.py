"""compile() and load(): every form of model, every recipe, files in and out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lpcompile
from lpcompile.assignment.budget import DEFAULT_AVG_BITS
from lpcompile.errors import InputError, LpcompileError, OutputError
from lpcompile.passes.candidate_plans import AUTO_FORMATS
from lpcompile.recipes import load_recipe, recipe_names
from lpcompile.runtime.compare import compare
from tests.networks import (
    SHIPPED,
    TOYS,
    compiled_network,
    compiled_toy,
    shipped,
    shipped_data,
    toy,
    toy_calls,
)
from tests.support import parse_model, run_model

LOSSY = [r for r in ("int8", "w4a8", "w4a4") if r in recipe_names()]


def test_the_recipes_of_this_version() -> None:
    assert {"fp32", "int8", "w4a8", "w4a4"} <= set(recipe_names())


@pytest.mark.thorough
def test_path_bytes_and_proto_are_one_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(toy("residual_add"), path)
    forms: list[Any] = [path, str(path), path.read_bytes(), onnx.load(path)]
    calls = toy_calls("residual_add")
    made = [lpcompile.compile(form, calibration=calls, recipe="int8") for form in forms]
    first = made[0].model.SerializeToString(deterministic=True)
    assert all(m.model.SerializeToString(deterministic=True) == first for m in made[1:])
    assert [m.report["model"]["path"] for m in made] == [str(path), str(path), None, None]


@pytest.mark.sweep
@pytest.mark.parametrize("recipe", ["fp32", *LOSSY])
@pytest.mark.parametrize("name", TOYS)
def test_every_recipe_on_every_toy(name: str, recipe: str) -> None:
    compiled = compiled_toy(name, recipe, costs=True)
    fresh = toy_calls(name, 12)[8:]
    found = compare((run_model(toy(name), c), compiled.run(c)) for c in fresh).sqnr_db
    assert found is not None
    assert found >= load_recipe(recipe).min_sqnr_db
    assert found >= {"fp32": 80, "int8": 20}.get(recipe, 0)
    formats = {
        row["weight_format"] for row in compiled.report["layers"] if row["macs"] or row["weight_shape"]
    }
    assert formats == {{"fp32": "float32", "int8": "int8"}.get(recipe, "fixp4")}


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((n, r) for n in SHIPPED for r in ("int8", "w4a8")),
        ("digits_resnet", "fp32"),
        ("digits_resnet", "w4a4"),
    ],
)
def test_shipped_networks_keep_their_accuracy(name: str, recipe: str) -> None:
    """On samples the compiler never saw; the bounds leave room for other CPUs, not for a broken layer."""
    compiled = compiled_network(name, recipe)
    with np.load(shipped_data(name, "eval")) as data:
        images, labels = data["image"], data["y"]
    reference = run_model(onnx.load(shipped(name)), {"image": images})["logits"].argmax(1)
    found = compiled.run({"image": images})["logits"].argmax(1)
    lost = float((reference == labels).mean() - (found == labels).mean())
    assert lost <= {"fp32": 0.0, "int8": 0.006, "w4a8": 0.03}.get(recipe, 0.1)
    assert (found == reference).mean() >= {"fp32": 1.0, "int8": 0.99, "w4a8": 0.96}.get(recipe, 0.88)


@pytest.mark.thorough
def test_without_data_weights_are_quantised_and_it_says_what_data_would_give() -> None:
    compiled = lpcompile.compile(shipped("digits_resnet"))
    assert compiled.report["recipe"] == "auto"
    formats = {r["weight_format"].partition(":")[0] for r in compiled.report["layers"]}
    assert "int8" in formats  # the first layer and the last lose most, and hold few weights
    assert len(formats) > 1
    assert formats <= set(AUTO_FORMATS.split("+"))
    assert compiled.report["totals"]["bits_per_weight"] <= DEFAULT_AVG_BITS
    assert {r["activation_format"] for r in compiled.report["layers"]} <= {"float32", "uint8 (dynamic)"}
    assert any("calibration" in w for w in compiled.report["warnings"])
    assert compiled.report["quality"]["source"] == "generated inputs"
    assert compiled.report["quality"]["sqnr_db_output"] > 20


@pytest.mark.thorough
def test_what_is_written_is_what_was_returned(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    compiled = lpcompile.compile(
        shipped("digits_resnet"), calibration=shipped_data("digits_resnet"), recipe="int8", output=out
    )
    assert compiled.path == out
    assert {p.name for p in out.iterdir()} == {"model.onnx", "report.json", "report.html", "decisions.toml"}
    assert onnx.load(out / "model.onnx") == compiled.model
    assert (out / "decisions.toml").read_text("utf-8") == compiled.decisions
    written = json.loads((out / "report.json").read_text("utf-8"))
    assert written["totals"] == compiled.report["totals"]
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(shipped_data("digits_resnet")) as data:
        feeds = {"image": data["image"][:4]}
    (wanted,) = session.run(None, feeds)
    np.testing.assert_array_equal(compiled.run(feeds)["logits"], wanted)
    again = lpcompile.load(out)
    np.testing.assert_array_equal(again.run(feeds)["logits"], wanted)
    assert [o.name for o in again.session().get_outputs()] == ["logits"]
    assert again.decisions == compiled.decisions
    assert again.report == written


def test_load_takes_a_file_too_and_refuses_an_empty_folder(tmp_path: Path) -> None:
    found = lpcompile.load(shipped("digits_resnet"))
    assert found.report == {}
    assert found.decisions == ""
    with pytest.raises(InputError, match=r"no model\.onnx in this folder") as caught:
        lpcompile.load(tmp_path)
    assert caught.value.hint
    with pytest.raises(InputError, match="there is no such file"):
        lpcompile.load(tmp_path / "none.onnx")


def test_feeds_that_do_not_fit_are_an_input_error() -> None:
    compiled = compiled_toy("conv_bn_relu", costs=True)
    with pytest.raises(InputError, match="the feeds do not fit the model"):
        compiled.run({"x": np.zeros((1, 2, 8, 8), np.float32)})


def test_an_earlier_run_is_not_overwritten_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    with pytest.raises(OutputError, match="of an earlier run") as caught:
        lpcompile.compile(b"no model at all", output=tmp_path)
    assert caught.value.hint == "overwrite with --force, or choose another folder with --output"
    lpcompile.compile(toy("shared_weights"), recipe="int8", output=tmp_path, force=True)
    assert (tmp_path / "report.json").stat().st_size > 0


def test_a_dry_run_decides_and_writes_nothing(tmp_path: Path) -> None:
    compiled = lpcompile.compile(toy("shared_weights"), recipe="int8", output=tmp_path / "out", dry_run=True)
    assert "[layers." in compiled.decisions
    assert not list(tmp_path.iterdir())


def test_temporaries_are_the_graph_after_each_pass(tmp_path: Path) -> None:
    name = "residual_add"
    compiled = lpcompile.compile(
        toy(name), calibration=toy_calls(name), recipe="int8", output=tmp_path / "out", save_temps=True
    )
    passes = [p["name"] for p in compiled.report["passes"] if p["name"] != "emit"]
    files = sorted((tmp_path / "out" / "passes").iterdir())
    assert [f.name for f in files] == [f"{i:02d}-{n}.onnx" for i, n in enumerate(passes)]
    feeds = toy_calls(name)[0]
    wanted = run_model(toy(name), feeds)
    for file in files:  # each one is a model that runs
        found = compare([(wanted, run_model(onnx.load(file), feeds))]).sqnr_db
        assert found is not None
        assert found > 20


def test_progress_and_observers_are_called() -> None:
    steps: list[lpcompile.Step] = []
    seen: list[tuple[int, str]] = []
    lpcompile.compile(
        toy("residual_add"),
        calibration=toy_calls("residual_add"),
        recipe="int8",
        progress=steps.append,
        observe=lambda index, done, _graph, _report: seen.append((index, done.name)),
    )
    passes = list(dict.fromkeys(s.pass_name for s in steps))
    assert passes[0] == passes[-1] == "" or passes[0] == ""
    assert ("quantize-activations", "calibrating", 6, 6) in [  # two of the eight calls are held back
        (s.pass_name, s.what, s.done, s.total) for s in steps
    ]
    assert [i for i, _ in seen] == list(range(len(seen)))
    assert "quantize-weights" in [name for _, name in seen]


def test_paths_may_be_texts(tmp_path: Path) -> None:
    model, kept = (
        parse_model("m (float[4,8] x) => (float[4,3] y) <float[8,3] w> { y = MatMul (x, w) }"),
        tmp_path / "d.toml",
    )
    first = lpcompile.compile(model, target="ort", recipe="int8")
    kept.write_text(first.decisions)
    again = lpcompile.compile(model, target="ort", recipe="int8", decisions=str(kept))
    assert again.model.SerializeToString() == first.model.SerializeToString()
    with pytest.raises(LpcompileError, match="cannot read the decisions"):
        lpcompile.compile(model, target="ort", decisions=str(tmp_path / "none.toml"))
