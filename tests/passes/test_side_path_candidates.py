"""Ranks chosen with formats: a path is a candidate like any other, counted as the file holds it."""

from pathlib import Path
from typing import Any

import pytest

import lpcompile
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.planned_format import held_format
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.backends.cim.target import CimTarget
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.errors import PassOptionError, TargetError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass
from lpcompile.recipe_passes import recipe_passes
from lpcompile.recipes import load_recipe
from lpcompile.registry import pass_class
from lpcompile.target import Options
from tests.networks import without_costs
from tests.passes.test_insert_lora import NET, REPAIRED
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import parse_model, random_feeds

ROUND = "quantize-weights{format=fixp4,rule=output-mse,scale-format=ufloat8_e4m4,rounding=gptq,sweeps=0}"


def assigned(options: str, *, calls: int = 12) -> Quantized:
    choice = f"assign-formats{{formats=fixp4,granularities=channel,{options}}}"
    return quantized(NET, f"{NO_COSTS},{choice},{ROUND}", calls=calls)


def ranks(found: Quantized) -> dict[str, int]:
    return {name: layer.weight.rank for name, layer in found.layers.items()}


@pytest.mark.thorough
def test_a_wide_budget_takes_paths_and_a_narrow_one_none() -> None:
    plain = assigned("avg-bits=8")
    least = plain.reports["assign-formats"].metrics["avg_bits"] + 0.001
    wide, narrow = assigned("ranks=2+4,avg-bits=8"), assigned(f"ranks=2+4,avg-bits={least}")
    assert set(wide.reports["assign-formats"].metrics) >= {"avg_bits", "candidates"}
    assert {name for name, rank in ranks(wide).items() if rank} == REPAIRED
    assert not any(ranks(narrow).values())
    assert not any(ranks(plain).values())
    for name in REPAIRED:
        tensor = wide.layers[name].tensor
        assert tensor is not None
        assert tensor.side is not None
        assert tensor.side.rank == ranks(wide)[name]


@pytest.mark.thorough
def test_bits_are_those_of_the_file() -> None:
    found = assigned("ranks=2+4,avg-bits=8")
    assert found.context.target is not None
    emitted = found.context.target.emit(found.graph, Options())
    for name in REPAIRED:
        node = found.graph.node(name)
        assert (
            stored_bits(layer_facts(node), held_format(found.graph, node)) == 8 * emitted.weight_bytes[name]
        )


def test_the_report_names_the_rank_of_a_choice() -> None:
    found = assigned("ranks=4,avg-bits=8")
    told = {c.node: c.what for c in found.reports["assign-formats"].changes}
    assert told["gemm"].endswith("/rank4")


def test_without_samples_there_are_no_paths() -> None:
    assert not any(ranks(assigned("ranks=2+4,avg-bits=8", calls=0)).values())


def test_ranks_are_checked() -> None:
    for text in ("x", "0", "4+513", "4,8"):
        with pytest.raises(PassOptionError, match="option 'ranks' is numbers from 1 to 512"):
            pass_class("assign-formats").configured({"ranks": text})


def compiled(monkeypatch: pytest.MonkeyPatch, **options: object) -> lpcompile.Artefacts:
    without_costs(monkeypatch)
    model = parse_model(NET)
    calls = [random_feeds(model, seed=i) for i in range(12)]
    return lpcompile.compile(model, calibration=calls, **options)  # type: ignore[arg-type]


def configured(recipe: str, **options: Any) -> dict[str, Pass]:
    chosen = Options(recipe=recipe, **options)
    return {p.name: p for p in recipe_passes(OrtTarget(), chosen, load_recipe(recipe), None, strict=False)}


def test_under_a_budget_ranks_are_chosen_and_a_rank_asked_for_is_the_same_everywhere() -> None:
    budget = {"avg-bits": 4.6}
    for recipe, options, wanted in (
        ("npp", {"budget": budget}, "2+4+8+16"),
        ("npp", {"budget": budget, "rank": 4}, "4"),
        ("npp", {"budget": budget, "rank": 0}, ""),
        ("npp", {}, "2+4+8+16"),
        ("w4a8", {"budget": budget, "rank": 8}, "8"),
        ("auto", {"rank": 8}, "8"),
        ("auto", {}, ""),
    ):
        passes = configured(recipe, **options)
        assigning = passes["assign-formats"]
        assert isinstance(assigning, AssignFormats)
        assert assigning.ranks == wanted
        assert "insert-lora" not in passes
    own = configured("npp")["assign-formats"]
    assert isinstance(own, AssignFormats)
    assert own.budget == {"avg-bits": 5.0}
    assert own.nearest
    for rank in (4, 8):
        asked = configured("npp", rank=rank)
        assert "assign-formats" not in asked
        assert asked["insert-lora"].text == ("insert-lora" if rank == 8 else "insert-lora{rank=4}")
    machine = recipe_passes(CimTarget(), Options(recipe="npp"), load_recipe("npp"), None, strict=False)
    assert [p.text for p in machine if p.name in ("assign-formats", "insert-lora")] == ["insert-lora"]
    assert configured("int8", rank=2)["insert-lora"].text == "insert-lora{rank=2}"


@pytest.mark.thorough
def test_choices_are_replayed_within_their_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    choice = "assign-formats{formats=fixp4,granularities=channel,ranks=2+4,avg-bits=5.2}"
    passes = f"canonicalize,fold-constants,fold-batchnorm,{NO_COSTS},{choice},{ROUND},correct-bias,requantize-weights"
    found = compiled(monkeypatch, passes=passes)
    assert found.report["totals"]["bits_per_weight"] <= 5.2
    assert any(layer["rank"] for layer in found.report["layers"])
    file = tmp_path / "decisions.toml"
    file.write_text(found.decisions, "utf-8")
    again = compiled(monkeypatch, decisions=file)
    assert again.model.SerializeToString() == found.model.SerializeToString()


@pytest.mark.thorough
def test_a_rank_beside_auto_is_one_of_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled(monkeypatch, recipe="auto", rank=2, budget={"avg-bits": 5.5}).report
    assert found["totals"]["bits_per_weight"] <= 5.5
    assert {layer["rank"] for layer in found["layers"]} <= {0, 2}
    assert "ranks=2" in found["created_with"]["command"] or "--rank 2" in found["created_with"]["command"]


def test_a_machine_refuses_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="has no lowering 'merged' of side paths"):
        compiled(monkeypatch, target="cim", recipe="auto", rank=2)
