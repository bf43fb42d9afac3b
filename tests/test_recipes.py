"""Recipes: the built-in ones are valid pipelines; a file of one's own is checked key by key."""

from pathlib import Path

import pytest

from lpcompile.api import TUNED_RECIPE
from lpcompile.backends.cim.target import CimTarget
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.errors import RecipeError
from lpcompile.ir.facts import Fact
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pipeline
from lpcompile.recipe_passes import default_recipe, recipe_passes
from lpcompile.recipes import MOST_BYTES, load_recipe, recipe_names
from lpcompile.registry import pass_class, split_pipeline
from lpcompile.target import Options, Target


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_are_pipelines_in_a_possible_order(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    passes = tuple(pass_class(n).configured(options) for n, options in split_pipeline(recipe.pipeline))
    pipeline = Pipeline(passes, given=frozenset({Fact.SHAPES}))
    again = tuple(pass_class(n).configured(options) for n, options in split_pipeline(pipeline.text))
    assert again == pipeline.passes


def test_the_promised_recipes_are_there() -> None:
    promised = "auto, fp32, int8, w4a8, w4a4, npp, npp-nf4, mixed-posit, mixed-posit-tuned, pikelpn, dpq"
    assert set(promised.split(", ")) <= set(recipe_names())


@pytest.mark.parametrize(
    ("target", "weight_format", "wanted"),
    [
        (OrtTarget, None, "auto"),
        (OrtTarget, "nf4", "auto"),
        (CimTarget, None, "auto"),
        (CimTarget, "nf4", "int8"),
    ],
)
def test_formats_are_chosen_by_default_but_for_a_machine_with_one_format_given(
    target: type[Target], weight_format: str | None, wanted: str
) -> None:
    assert default_recipe(target(), Options(weight_format=weight_format)) == wanted


def assignment(recipe: str, **options: object) -> AssignFormats:
    """How `assign-formats` is configured."""
    chosen = Options(recipe=recipe, **options)  # type: ignore[arg-type]
    passes = recipe_passes(OrtTarget(), chosen, load_recipe(recipe), None, strict=False)
    (found,) = (p for p in passes if isinstance(p, AssignFormats))
    return found


@pytest.mark.parametrize("recipe", ["mixed-posit", "mixed-posit-tuned"])
def test_a_weight_format_takes_the_place_of_the_formats_that_a_recipe_mixes(recipe: str) -> None:
    own = assignment(recipe)
    assert (own.formats, own.posit_fraction) == ("fixp4+posit4", 0.1)
    named = assignment(recipe, weight_format="nf4")
    assert (named.formats, named.budget) == ("nf4", {})
    bounded = assignment(recipe, weight_format="posit4", budget={"avg-bits": 6.0})
    assert (bounded.formats, bounded.budget) == ("posit4+int8", {"avg-bits": 6.0})
    shared = assignment(recipe, weight_format="posit4", budget={"posit-fraction": 0.5})
    assert (shared.formats, shared.budget) == ("posit4+int8", {"posit-fraction": 0.5})
    assert assignment("auto", weight_format="nf4").formats == "nf4+int8"


def test_kinds_of_layers_take_a_weight_format_or_leave_the_choice_to_a_budget() -> None:
    def chosen(**options: object) -> dict[str, str]:
        given = Options(recipe="pikelpn", **options)  # type: ignore[arg-type]
        return {
            p.name: p.text
            for p in recipe_passes(OrtTarget(), given, load_recipe("pikelpn"), None, strict=False)
        }

    assert chosen()["distribution-heterogeneous"] == "distribution-heterogeneous"
    assert chosen(weight_format="posit4")["distribution-heterogeneous"].endswith("{format=posit4}")
    bounded = chosen(budget={"avg-bits": 5.0})
    assert "distribution-heterogeneous" not in bounded
    assert bounded["assign-formats"].startswith("assign-formats{formats=fixp4+int8")


def test_a_recipe_with_a_budget_of_its_own_chooses_among_more_widths() -> None:
    assert assignment("npp").formats == "fixp4+int6+int8"
    assert assignment("npp", budget={"avg-bits": 6.0}).formats == "fixp4+int8"


def test_the_tuned_recipe_is_the_mixed_one_and_retraining() -> None:
    mixed, tuned = (split_pipeline(load_recipe(n).pipeline) for n in ("mixed-posit", TUNED_RECIPE))
    assert tuned[:-1] == mixed
    assert tuned[-1][0] == "tune-weights"


def test_a_copy_of_a_built_in_recipe_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(load_recipe("w4a8").text.replace('name = "w4a8"\n', ""))
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.pipeline == load_recipe("w4a8").pipeline
    assert recipe.min_sqnr_db == load_recipe("w4a8").min_sqnr_db


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("pipeline = ", "not TOML", "prints a recipe to start from"),
        ('pipelin = "fold-constants"', "unknown key 'pipelin'", "did you mean 'pipeline'?"),
        ("pipeline = 3", "key 'pipeline' has the wrong type", "see 'lpcompile recipes int8'"),
        ('pipeline = "fold-constants"\nmin-sqnr-db = true', "has the wrong type", "see"),
        ('pipeline = "fold-constants"\navg-bits = -1', "'avg-bits' lies above 0", "avg-bits = 5"),
        ('pipeline = "fold-constants"\navg-bits = nan', "'avg-bits' lies above 0", "avg-bits = 5"),
        ('name = "x"', "key 'pipeline' is missing", "see 'lpcompile recipes int8'"),
        ('pipeline = "fold-constant"', "no pass is called 'fold-constant'", "did you mean 'fold-constants'?"),
        ('pipeline = ""', "the pipeline is empty", "name at least one pass"),
    ],
)
def test_a_broken_recipe_says_what_and_where(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 3


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe is called 'int9'") as near:
        load_recipe("int9")
    assert near.value.hint == "did you mean 'int8'?"
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "missing.toml"))
    big = tmp_path / "big.toml"
    big.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(RecipeError, match="more than 1 MiB"):
        load_recipe(str(big))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(str(binary))


def test_a_wide_weight_format_alone_leaves_nothing_to_choose() -> None:
    options = Options(weight_format="float8_e4m3fn")
    assert default_recipe(OrtTarget(), options) == "int8"
    assert default_recipe(OrtTarget(), Options(weight_format="posit4")) == "auto"
