"""The list of recipes, with what each comes to on one shipped network."""

import re

from lpcompile.recipes import load_recipe, recipe_names
from tests.documents.blocks import ROOT, blocks
from tests.documents.generated.markdown import NOTE, code, joined, table

USUAL = "auto"


def page() -> str:
    """docs/recipes/index.md."""
    names = sorted(recipe_names(), key=lambda name: (name != USUAL, name))
    rows = [(f"[`{name}`]({name}.md)", load_recipe(name).summary, *_figures(name)) for name in names]
    return joined(
        "# Recipes",
        f"A recipe is a named pipeline of passes with its options. {NOTE} The figures are those that the page of each recipe records, for the "
        "shipped network `digits_resnet` (14 layers, 62 thousand weights).",
        table(("recipe", "is", "bits a weight", "file, kB", "SQNR, dB"), rows),
        "## Which one",
        "- Start with `auto`. It gives each layer the format that loses least within 4.5 bits a weight, and takes a few times as long as the others.\n"
        "- `int8` loses least of all that are fast, and compiles fastest. Take it where the size of the file does not matter.\n"
        "- `w4a8` is `auto` with one format for all layers: half the file of `int8`, in a second or two.\n"
        "- The others serve a purpose: 4-bit activations (`w4a4`), side paths (`npp`, `npp-nf4`), posits (`mixed-posit`, `mixed-posit-tuned`), "
        "little work beside the products (`pikelpn`), FP8 hardware (`dpq`), nothing but rewrites (`fp32`).",
        "## Your own",
        f"A recipe is a TOML file; `lpcompile recipes NAME` prints one ({code(names[:3])}, ...), to be copied and edited, and `--recipe FILE.toml` takes it. "
        "Its keys are `name`, `summary`, `pipeline` ([passes](../reference/passes.md) with their options) and `min-sqnr-db`, the least output SQNR below which "
        "the compiler falls back to more precise kernels.",
    )


def _figures(name: str) -> tuple[str, str, str]:
    page = f"docs/recipes/{name}.md"
    outputs = [b.text for b in blocks(page) if "output" in b.notes] if (ROOT / page).exists() else []
    summary = next((text for text in outputs if " for ort, recipe " in text), "")
    found = [
        re.search(pattern, summary)
        for pattern in (r"weights +([\d.]+) bits", r"-> ([\d.]+) kB", r"SQNR ([\d.]+) dB")
    ]
    bits, size, sqnr = (match[1] if match else "" for match in found)
    return bits, size, sqnr
