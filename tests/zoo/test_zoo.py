"""Real, trained networks: one small entry for each feature, and sweeps over all of them (slow)."""

import tomllib
from collections import Counter
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import LpcompileError
from tests.zoo.entries import Zoo, find_zoo, session

ZOO = find_zoo()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="LPCOMPILE_ZOO names no folder with a zoo.json"),
]
FOUR_BIT = ("fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn")
ENTRIES = sorted(ZOO.entries) if ZOO else []
ROBUST = sorted(p.name for p in (ZOO.root / "robustness").glob("*.onnx")) if ZOO else []


@pytest.fixture
def zoo() -> Zoo:
    assert ZOO is not None
    return ZOO


def compiled(zoo: Zoo, name: str, recipe: str, limit: int | None = 48, **options: Any) -> lpcompile.Artefacts:
    return lpcompile.compile(
        zoo.model(name), calibration=zoo.samples(name, limit=limit), recipe=recipe, **options
    )


def data(made: lpcompile.Artefacts) -> bytes:
    return bytes(made.model.SerializeToString())


def no_silent_layer(made: lpcompile.Artefacts) -> None:
    assert all(r["reason"] for r in made.report["layers"] if r["weight_format"] == "float32")


@pytest.mark.parametrize(("name", "least_db"), [("tiny_dscnn_kws", 31.0), ("resnet20_cifar10", 28.0)])
def test_int8_keeps_the_accuracy(zoo: Zoo, name: str, least_db: float) -> None:
    made = compiled(zoo, name, "int8")
    found = zoo.paired(name, data(made), limit=400)
    assert found.drop - found.standard_error <= 0.005
    assert found.agreement >= 0.97
    assert zoo.sqnr_db(name, data(made), 32) >= least_db
    assert made.report["totals"]["bits_per_weight"] < 10


@pytest.mark.parametrize("fmt", ["fixp4", "nf4"])
def test_w4a8_keeps_most_of_it(zoo: Zoo, fmt: str) -> None:
    made = compiled(zoo, "tiny_dscnn_kws", "w4a8", weight_format=fmt)
    assert {r["weight_format"] for r in made.report["layers"]} <= {fmt, "float32"}
    found = zoo.paired("tiny_dscnn_kws", data(made), limit=400)
    assert found.drop <= 0.08
    no_silent_layer(made)


def test_w4a4_runs(zoo: Zoo) -> None:
    made = compiled(zoo, "resnet20_cifar10", "w4a4")
    formats = Counter(r["activation_format"] for r in made.report["layers"])
    assert formats["uint4"] >= 15
    assert zoo.paired("resnet20_cifar10", data(made), limit=200).drop <= 0.3


def test_groups_are_closer_to_the_weights_than_channels(zoo: Zoo) -> None:
    def mean_sqnr_db(group_size: int) -> float:
        made = lpcompile.compile(zoo.model("resnet20_cifar10"), recipe="w4a8", group_size=group_size)
        rounding = next(p for p in made.report["passes"] if p["name"] == "quantize-weights")
        return float(np.mean([float(c["after"].split()[0]) for c in rounding["changes"]]))

    assert mean_sqnr_db(32) >= mean_sqnr_db(0) + 1.5


def test_without_data(zoo: Zoo) -> None:
    made = lpcompile.compile(zoo.model("resnet20_cifar10"), recipe="int8")
    assert {r["activation_format"] for r in made.report["layers"]} <= {"float32", "uint8 (dynamic)"}
    assert zoo.sqnr_db("resnet20_cifar10", data(made), 32) >= 28


def test_a_language_model(zoo: Zoo) -> None:
    made = compiled(zoo, "char_gpt_shakespeare", "int8")
    assert zoo.sqnr_db("char_gpt_shakespeare", data(made), 16) >= 30
    assert sum(r["weight_format"] == "int8" for r in made.report["layers"]) >= 16
    no_silent_layer(made)


def test_a_recurrent_model_with_an_if(zoo: Zoo) -> None:
    made = compiled(zoo, "silero_vad_op18", "int8")
    no_silent_layer(made)
    assert made.report["layers"]
    assert zoo.sqnr_db("silero_vad_op18", data(made), 16) >= 15


def test_an_old_model_whose_weights_are_inputs(zoo: Zoo) -> None:
    made = compiled(zoo, "mnist_cnn", "int8")
    assert [i.name for i in made.session().get_inputs()] == ["Input3"]
    assert {r["weight_format"] for r in made.report["layers"]} == {"int8"}
    assert zoo.paired("mnist_cnn", data(made), limit=400).drop <= 0.005


def test_a_replay(zoo: Zoo, tmp_path: Any) -> None:
    first = compiled(zoo, "tiny_dscnn_kws", "w4a8")
    (tmp_path / "d.toml").write_text(first.decisions)
    again = compiled(zoo, "tiny_dscnn_kws", "w4a8", decisions=tmp_path / "d.toml")
    assert data(again) == data(first)
    assert tomllib.loads(again.decisions) == tomllib.loads(first.decisions)


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("file", ROBUST)
def test_models_without_labels(zoo: Zoo, file: str, recipe: str) -> None:
    """Without data: outputs agree with float on seeded inputs, or a documented error says why not."""
    path = zoo.root / "robustness" / file
    try:
        made = lpcompile.compile(path, recipe=recipe)
    except LpcompileError as error:
        assert error.exit_code in (3, 5)  # noqa: PT017
        assert error.hint  # noqa: PT017
        return
    no_silent_layer(made)
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in i.shape]).astype(np.float32)
        for i in session(path).get_inputs()
    }
    for a, b in zip(session(path).run(None, feeds), session(data(made)).run(None, feeds), strict=True):
        assert ((a - b) ** 2).sum() / (a**2).sum() <= 10 ** (-0.1 * {"int8": 15, "w4a8": 4}[recipe])


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["int8", *FOUR_BIT])
@pytest.mark.parametrize("name", ENTRIES)
def test_every_format_on_every_entry(zoo: Zoo, name: str, fmt: str) -> None:
    made = compiled(zoo, name, "int8" if fmt == "int8" else "w4a8", weight_format=fmt)
    no_silent_layer(made)
    assert made.report["totals"]["bits_per_weight"] <= (40 if made.report["warnings"] else 10)
    assert zoo.sqnr_db(name, data(made), 16) >= {"int8": 6.0}.get(fmt, 0.0)
