"""What `lpcompile passes` knows, on one page."""

import inspect
import re
import sys
from typing import Any

from lpcompile.recipes import load_recipe, recipe_names
from lpcompile.registry import all_passes, split_pipeline
from tests.documents.generated.markdown import NOTE, code, joined, table


def page() -> str:
    """docs/reference/passes.md."""
    users: dict[str, list[str]] = {}
    for recipe in recipe_names():
        for name, _ in split_pipeline(load_recipe(recipe).pipeline):
            users.setdefault(name, []).append(recipe)
    found = all_passes()
    rows = [(f"[`{n}`](#{n})", cls.summary) for n, cls in found.items()]
    return joined(
        "# Passes",
        f"In the order in which a pipeline may have them. {NOTE}",
        "A pipeline is text: names with their options, `fold-batchnorm, quantize-weights{format=nf4, rounding=gptq}`. "
        "It stands in the TOML of a recipe, or after `--passes`. "
        "A pass that comes before what it requires is refused (exit 2) before any weight is read. "
        "`lpcompile passes NAME` prints one.",
        table(("pass", "what"), rows),
        *(_section(name, cls, list(dict.fromkeys(users.get(name, [])))) for name, cls in found.items()),
    )


def _section(name: str, cls: Any, recipes: list[str]) -> str:
    facts = [
        f"{word} {code(sorted(f.value for f in getattr(cls, word)))}"
        for word in ("requires", "establishes", "invalidates")
        if getattr(cls, word)
    ]
    kind = "Leaves outputs as they are" if cls.exact else "Loses precision"
    about = [f"{kind}; in {'recipes ' + code(recipes) if recipes else 'no recipe'}.", "; ".join(facts)]
    texts = cls.option_texts()
    options = [(f"`{k}`", _shown(v), texts.get(k, "")) for k, v in cls.options().items()]
    return joined(
        f"## {name}",
        f"{cls.summary[0].upper()}{cls.summary[1:]}.",
        _module_text(cls),
        *(part for part in about if part),
        *([table(("option", "default", "what"), options)] if options else []),
    )


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if text else ""


def _module_text(cls: Any) -> str:
    """The docstring of the module without its first line; indented formulas stay as they are."""
    text = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    return re.sub(r"(?m)^(?=    )", "", text.partition("\n\n")[2])
