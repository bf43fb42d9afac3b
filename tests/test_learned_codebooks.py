"""`--weight-format lut4`: a table learned for each layer, written down and replayed."""

import tomllib
from pathlib import Path

import pytest

import lpcompile
from lpcompile.api import Artefacts
from lpcompile.report.text import summary
from tests.networks import compiled_toy, toy, toy_calls, without_costs

TOY = "residual_add"


@pytest.fixture(autouse=True)
def _by_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


@pytest.mark.thorough
@pytest.mark.parametrize(("recipe", "granularity"), [("int8", "channel"), ("w4a8", "group32")])
def test_every_layer_has_a_table_of_its_own_and_replays_it(
    recipe: str, granularity: str, tmp_path: Path
) -> None:
    made = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), recipe=recipe, weight_format="lut4")
    layers = tomllib.loads(made.decisions)["layers"].values()
    names = {layer["format"] for layer in layers}
    assert len(names) == len(layers) > 1
    assert all(name.startswith("lut4:") and len(name) == 37 for name in names)
    assert granularity in {layer["granularity"] for layer in layers}
    assert made.report["quality"]["sqnr_db_output"] > 10
    assert f"{len(layers)} lut4" in summary(made.report)
    file = tmp_path / "decisions.toml"
    file.write_text(made.decisions, "utf-8")
    again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
    assert tomllib.loads(again.decisions)["layers"] == tomllib.loads(made.decisions)["layers"]
    assert again.model.SerializeToString() == made.model.SerializeToString()


@pytest.mark.thorough
def test_a_decision_can_ask_for_a_table(tmp_path: Path) -> None:
    made = compiled_toy(TOY, "w4a8")
    file = tmp_path / "decisions.toml"
    file.write_text(made.decisions.replace('format = "fixp4"', 'format = "lut4"', 1), "utf-8")
    again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
    formats = [row["weight_format"] for row in again.report["layers"]]
    assert formats[0].startswith("lut4:")
    assert formats[1:] == ["fixp4"] * (len(formats) - 1)


@pytest.mark.thorough
def test_a_machine_takes_learned_tables() -> None:
    made = lpcompile.compile(
        toy(TOY), target="cim", calibration=toy_calls(TOY), recipe="int8", weight_format="lut4"
    )
    assert {r["weight_format"][:5] for r in made.report["layers"]} == {"lut4:"}


def within_budget(weight_format: str) -> Artefacts:
    """Rounded once, with sweeps: where a second rounding follows, tables stay as they were tried."""
    passes = (
        "fold-constants, canonicalize, fold-batchnorm, quantize-activations, "
        f"assign-formats{{formats={weight_format}+int8, avg-bits=5.5}}, "
        "quantize-weights{format=fixp4, rule=output-mse, scale-format=ufloat8_e4m4, rounding=gptq, sweeps=2}, "
        "correct-bias"
    )
    return lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), passes=passes)


@pytest.mark.thorough
def test_tables_that_were_tried_are_improved_once_they_are_chosen(tmp_path: Path) -> None:
    """By the Gram matrix of the layer; a table named by its digits stays, and so does one that is replayed."""
    made = within_budget("lut4")
    rows = [row for row in made.report["layers"] if row["weight_format"].startswith("lut4:")]
    changes = next(p for p in made.report["passes"] if p["name"] == "assign-formats")["changes"]
    tried = {change["node"]: change["what"] for change in changes}
    assert rows
    assert any(row["weight_format"] not in tried[row["name"]] for row in rows)
    file = tmp_path / "decisions.toml"
    file.write_text(made.decisions, "utf-8")
    again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
    assert tomllib.loads(again.decisions)["layers"] == tomllib.loads(made.decisions)["layers"]
    assert again.model.SerializeToString() == made.model.SerializeToString()
    digits = rows[0]["weight_format"]
    assert {row["weight_format"] for row in within_budget(digits).report["layers"]} <= {digits, "int8"}
