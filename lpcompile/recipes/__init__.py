"""Recipes: named pipelines as TOML files, the built-in ones beside this module; copy one and edit it.

Keys: `name`, `summary`, `pipeline` (text, as `-p` takes it), `min-sqnr-db` (least output SQNR against float below which
the compiler falls back to more precise kernels) and `avg-bits` (a budget where the user gives none and no rank: formats
and ranks of side paths are chosen within it, on targets that can).
"""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lpcompile.errors import PipelineError, RecipeError
from lpcompile.registry import near_match, pass_class, split_pipeline

KEYS: dict[str, Any] = {
    "name": str,
    "summary": str,
    "pipeline": str,
    "min-sqnr-db": (int, float),
    "avg-bits": (int, float),
}
MOST_BYTES = 1 << 20
MOST_BITS = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """One pipeline with its options."""

    name: str
    summary: str
    pipeline: str
    min_sqnr_db: float
    text: str
    avg_bits: float = 0.0  # none


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    files = resources.files("lpcompile.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or one from a TOML file by path.

    Raises:
        RecipeError: there is no such recipe, or the file is not one.
    """
    if name in recipe_names():
        return _parse((resources.files("lpcompile.recipes") / f"{name}.toml").read_text(), name)
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        raise RecipeError(f"no recipe is called '{name}'", hint=near_match(name, recipe_names()))
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecipeError("a recipe of more than 1 MiB", where=str(path), hint="give a recipe, not data")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"cannot read the recipe: {error}", where=str(path), hint="check the path"
        ) from error
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Recipe:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"not TOML: {error}", where=where, hint="'lpcompile recipes int8' prints a recipe to start from"
        ) from error
    for key, value in data.items():
        if key not in KEYS:
            raise RecipeError(f"unknown key '{key}'", where=where, hint=near_match(key, list(KEYS)))
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise RecipeError(
                f"key '{key}' has the wrong type", where=where, hint="see 'lpcompile recipes int8'"
            )
    if "pipeline" not in data:
        raise RecipeError("key 'pipeline' is missing", where=where, hint="see 'lpcompile recipes int8'")
    try:
        for pass_name, _ in split_pipeline(data["pipeline"]):
            pass_class(pass_name)
    except PipelineError as error:
        raise RecipeError(error.message, where=where, hint=error.hint) from error
    return Recipe(
        data.get("name", Path(where).stem),
        data.get("summary", ""),
        data["pipeline"],
        float(data.get("min-sqnr-db", 0.0)),
        text,
        _bits(data.get("avg-bits", 0.0), where),
    )


def _bits(given: float, where: str) -> float:
    if given and not 0 < given <= MOST_BITS:  # not a number fails, too
        raise RecipeError(
            f"key 'avg-bits' lies above 0 and is at most {MOST_BITS}, not {given}",
            where=where,
            hint="for example avg-bits = 5",
        )
    return float(given)
