"""What to try next follows from the figures of a report."""

from typing import Any

import pytest

import lpcompile
from lpcompile.report.advice import MOST, advice, float_reasons, worst_layers
from lpcompile.report.text import summary
from tests.networks import toy, toy_calls


def layer(name: str, fmt: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "weight_format": fmt, "activation_format": "uint8", "reason": "", **more}


def report(
    *layers: dict[str, Any], db: float = 25.0, agreement: float | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "target": "ort",
        "recipe": "w4a8",
        "created_with": {"options": {"effort": 1}},
        "layers": list(layers),
        "totals": {"bits_per_weight": 4.25},
        "quality": {"samples": 8, "sqnr_db_output": db, "top1_agreement": agreement},
        "verification": {"latency_ms": {"float": 2.0, "compiled": 1.0}},
        **more,
    }


FEW = (layer("a", "fixp4", sqnr_db_local=9.0), layer("b.c", "nf4", sqnr_db_local=5.0))


def test_low_quality_of_few_bits() -> None:
    assert advice(report(*FEW, db=12.0)) == [
        "-O2: learns codes and narrow ranges block by block, in minutes",
        r"--layer-format 'b\.c=int8': the layer that loses most, in 8 bits",
        "--recipe auto --budget sqnr-db=20: the fewest bits that reach it",
    ]


def test_what_was_done_is_not_told_again() -> None:
    told = advice(report(*FEW, db=12.0, recipe="auto", created_with={"options": {"effort": 2}}))
    assert not any(t.startswith("-O2") for t in told)
    assert told[-1].startswith("--budget avg-bits=4.75:")
    assert not any("--benchmark" in t for t in advice(report(*FEW)))
    assert any("--benchmark" in t for t in advice(report(*FEW, verification={})))


def test_narrow_activations_are_named() -> None:
    layers = [{**r, "activation_format": "uint4"} for r in FEW]
    assert any(t.startswith("--activation-format uint8") for t in advice(report(*layers, db=12.0)))


def test_low_quality_of_8_bits_names_a_layer() -> None:
    wide = (layer("a", "int8", sqnr_db_local=40.0), layer("b", "int8", sqnr_db_local=12.0))
    assert advice(report(*wide, db=12.0))[0] == "--keep-float 'b': the layer that loses most"


@pytest.mark.parametrize(("agreement", "samples", "low"), [(1.0, 8, True), (1.0, 400, False), (0.9, 8, True)])
def test_agreement_of_many_samples_counts_more_than_decibels(
    agreement: float, samples: int, low: bool
) -> None:
    given = report(*FEW, db=15.0, agreement=agreement)
    given["quality"]["samples"] = samples
    assert any(t.startswith("-O2") for t in advice(given)) == low


def test_room_for_fewer_bits() -> None:
    wide = (layer("a", "int8"), layer("b", "int8"))
    assert advice(report(*wide, db=41.0, recipe="int8"))[0].startswith("--recipe w4a8 halves")
    assert advice(report(layer("a", "int8"), FEW[0], db=41.0, recipe="auto"))[0].startswith(
        "--budget sqnr-db=35:"
    )


@pytest.mark.parametrize("asked", [{"budget": {"sqnr-db": 40.0}}, {"decisions": "mine.toml"}])
def test_who_asked_for_these_bits_is_not_told_of_fewer(asked: dict[str, Any]) -> None:
    given = report(layer("a", "int8"), FEW[0], db=41.0, recipe="auto", created_with={"options": asked})
    assert advice(given) == []


def test_float_layers_say_why() -> None:
    floats = [layer(f"f{i}", "float32", reason="faster as floats") for i in range(4)]
    given = report(*floats, FEW[0])
    assert float_reasons(given) == [("faster as floats", 4)]
    assert "4 layers stayed float: faster as floats" in advice(given)[0]
    assert advice(report(*floats, recipe="fp32")) == []


def test_a_layer_that_differs_from_its_reference_is_to_be_reported() -> None:
    odd = layer("a", "float32", reason="1 layer differs from the numpy reference: a")
    assert advice(report(odd)) == [
        "1 layer stayed float: 1 layer differs from the numpy reference: a; report it with the model"
    ]


def test_the_worst_layers_are_those_of_the_outputs_where_that_is_known() -> None:
    layers = (
        layer("a", "nf4", sqnr_db_local=5.0, sqnr_db_end=40.0),
        layer("b", "nf4", sqnr_db_local=9.0, sqnr_db_end=20.0),
    )
    assert [r["name"] for r in worst_layers(report(*layers))] == ["b", "a"]
    assert worst_layers(report(layer("a", "float32", sqnr_db_local=1.0))) == []


def test_never_more_than_a_few() -> None:
    layers = [{**r, "activation_format": "uint4"} for r in FEW] + [layer("f", "float32", reason="x")] * 5
    assert len(advice(report(*layers, db=3.0, verification={}))) == MOST


def test_a_network_whose_layers_stand_in_bodies() -> None:
    """Nothing of it is counted, and the summary does not say 0 bits."""

    bodies = lpcompile.compile(toy("if_body"), calibration=toy_calls("if_body"), recipe="int8").report
    bodies = {**bodies, "layers": [r for r in bodies["layers"] if not r["weight_shape"]]}
    bodies["totals"] = {**bodies["totals"], "bits_per_weight": 0.0, "weight_bytes": 0}
    text = summary(bodies)
    assert "0 bits" not in text
    assert "weights   none that are counted" in text
    assert "inside a control-flow body" in text
    assert advice(bodies)[0].startswith("export the model with its If, Loop and Scan unrolled")
