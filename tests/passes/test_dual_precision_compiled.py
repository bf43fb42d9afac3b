"""Recipe `dpq` as a whole: report, replay, decisions and options that mean nothing, its form."""

import re
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import DecisionsError, LpcompileError, PassOptionError, PipelineError, TargetError
from lpcompile.plan import FLOAT8_FORMAT
from tests.passes.dual_networks import MLP
from tests.support import parse_model, random_feeds


def compiled(**options: Any) -> Any:
    model = parse_model(MLP)
    return lpcompile.compile(
        model, calibration=[random_feeds(model, seed=i) for i in range(8)], recipe="dpq", **options
    )


def test_report_and_replay(tmp_path: Any) -> None:
    made = compiled()
    assert made.report["totals"]["bits_per_weight"] == pytest.approx(
        4 + (16 * (16 + 9) + 32) / (40 * 16 + 16 * 9), rel=0.02
    )
    for layer in made.report["layers"]:
        assert (layer["weight_format"], layer["weight_granularity"]) == ("int4", "group64")
        assert layer["activation_format"] == FLOAT8_FORMAT
        assert layer["weight_bytes"] > 0
    assert made.report["verification"]["integer_layers_checked"] == 4  # two layers, two inputs
    assert made.report["verification"]["elements_different"] == 0
    path = tmp_path / "decisions.toml"
    path.write_text(made.decisions)
    model = parse_model(MLP)
    feeds = [random_feeds(model, seed=i) for i in range(8)]
    again = lpcompile.compile(model, calibration=feeds, decisions=path)
    assert again.model.SerializeToString() == made.model.SerializeToString()
    assert again.decisions.replace('recipe = "auto"', 'recipe = "dpq"') == made.decisions
    path.write_text(made.decisions.replace("group64", "group8").replace("dpq-levels-gar", "dpq"))
    edited = lpcompile.compile(model, calibration=feeds, decisions=path)
    assert {(x["weight_granularity"], x["rounding"]) for x in edited.report["layers"]} == {("group8", "dpq")}
    assert any("codes are not those" in w for w in edited.report["warnings"])


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('format = "int4"', 'format = "nf4"', "int4 codes in groups"),
        ('granularity = "group64"', 'granularity = "channel"', "int4 codes in groups"),
        ('kernel = "float8"', 'kernel = "integer"', "int4 codes in groups"),
        ('scale_format = "bfloat16"', 'scale_format = "float32"', "scale_rule"),
        ('rounding = "dpq-levels-gar"', 'rounding = "gptq"', "rounding"),
        ('(format = "float8_e4m3fn"\nscale = ).*', r"\g<1>0.3", "power of two"),
    ],
)
def test_decisions_that_mean_nothing(tmp_path: Any, old: str, new: str, words: str) -> None:
    text = compiled().decisions
    assert re.search(old, text)
    path = tmp_path / "decisions.toml"
    path.write_text(re.sub(old, new, text))
    with pytest.raises(DecisionsError, match=words):
        lpcompile.compile(parse_model(MLP), decisions=path)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"target": "cim"}, TargetError, "no FP8 arithmetic"),
        ({"weight_format": "nf4"}, PipelineError, "--weight-format"),
        ({"group_size": 0}, PipelineError, "--group-size"),
        ({"tuning": {}}, PipelineError, "--tune"),
        ({"layer_formats": [".*=int8"]}, PipelineError, "--layer-format"),
        ({"activation_format": "uint8"}, PassOptionError, "activations"),
    ],
)
def test_options_of_other_formats_are_refused(
    options: dict[str, Any], kind: type[LpcompileError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        compiled(**options)
    assert caught.value.hint


def test_effort_two_rounds_again() -> None:
    once, again = compiled(), compiled(effort=2)
    assert [p["name"] for p in again.report["passes"]][-2] == "requantize-weights"
    assert again.report["effort"]["learned_by"] == ["requantize-weights"]
    assert again.report["quality"]["sqnr_db_output"] > once.report["quality"]["sqnr_db_output"] - 0.5
    plain = compiled(effort=0)
    assert {layer["rounding"] for layer in plain.report["layers"]} == {"fp8-nearest"}


def test_form_without_such_layers_is_refused() -> None:
    with pytest.raises(PipelineError, match="plans none"):
        lpcompile.compile(parse_model(MLP), recipe="int8", emit="fp8-qdq")


def test_form_raises_the_opset() -> None:
    made = compiled(emit="fp8-qdq")
    assert {o.version for o in made.model.opset_import if not o.domain} == {21}
    assert made.report["verification"]["runs"]
    assert any("float8" in w for w in made.report["warnings"])


def test_eight_bits_in_report_and_replay(tmp_path: Any) -> None:
    first = compiled(passes="fold-constants,canonicalize,fold-batchnorm,dual-precision{least-inputs=20}")
    layers = {r["name"]: r for r in first.report["layers"]}
    wide = [r for r in layers.values() if r["weight_format"] == FLOAT8_FORMAT]
    assert wide
    for record in wide:
        count = int(np.prod(record["weight_shape"]))
        rows = record["weight_bytes"] - count
        assert rows > 0
        assert rows % 2 == 0
        assert record["reason"] == "weights in FP8: its outputs read too few inputs for 4 bits"
    assert first.report["verification"]["elements_different"] == 0
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions, "utf-8")
    again = compiled(decisions=path)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    path.write_text(first.decisions.replace('granularity = "channel"', 'granularity = "tensor"'), "utf-8")
    with pytest.raises(
        DecisionsError, match="are those of int4 codes in groups that are read as FP8"
    ) as told:
        compiled(decisions=path)
    assert 'granularity = "channel"' in (told.value.hint or "")
