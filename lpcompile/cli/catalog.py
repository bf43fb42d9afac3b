"""`lpcompile formats`, `passes`, `recipes`: what there is to choose from."""

from typing import Any

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output


@click.command(short_help="Number formats.")
@click.argument("name", required=False)
@common_options
def formats(output: Output, name: str | None) -> None:
    """List the number formats, or show every code of the format NAME."""
    from lpcompile.formats.base import format_names, resolve
    from lpcompile.report.table import table

    if name is None:
        rows = [_format_row(resolve(n)) for n in format_names()]
        header = ("format", "bits", "values", "largest", "int8 image", "what")
        cells = [(r["name"], r["bits"], r["values"], r["max"], r["image"], r["what"]) for r in rows]
        text = table(header, cells) + "\n\n'lpcompile formats NAME' shows the codes of one."
        output.answer({"formats": rows}, text)
        return
    fmt = resolve(name)
    row, values, image = _format_row(fmt), fmt.table(), fmt.image()
    codes = [
        {"code": i, "value": float(v), "image": None if image is None else int(image[i])}
        for i, v in enumerate(values)
    ]
    shown = [
        (
            f"{c['code']:0{fmt.bits}b}",
            c["code"],
            "reserved" if c["value"] != c["value"] else f"{c['value']:.9g}",
            c["image"],
        )
        for c in codes
    ]
    text = f"{row['name']}: {row['what']}; {row['bits']} bits, {row['values']} values up to {row['max']:g}\n"
    text += f"int8 image: {row['image']}"
    text += f", value = image * {fmt.image_scale:.9g}\n\n" if image is not None else "\n\n"
    output.answer({**row, "codes": codes}, text + table(("bits", "code", "value", "image"), shown))


def _format_row(fmt: Any) -> dict[str, Any]:
    from lpcompile.formats.base import description

    image = "none" if fmt.image() is None else "exact" if fmt.image_exact else "rounded"
    return {
        "name": fmt.name,
        "bits": fmt.bits,
        "values": len(fmt.grid()),
        "max": float(fmt.max),
        "image": image,
        "what": description(fmt.name),
    }


@click.command(short_help="Compiler passes and their options.")
@click.argument("name", required=False)
@common_options
def passes(output: Output, name: str | None) -> None:
    """List the passes in pipeline order, or show the options of the pass NAME."""
    from lpcompile.registry import all_passes, pass_class
    from lpcompile.report.table import table

    if name is None:
        rows = [_pass_row(cls) for cls in all_passes().values()]
        text = table(("pass", "what"), [(r["name"], r["summary"]) for r in rows])
        output.answer({"passes": rows}, text + "\n\n'lpcompile passes NAME' shows the options of one.")
        return
    row = _pass_row(pass_class(name))
    lines = [f"{row['name']}: {row['summary']}"]
    lines += [
        f"{key:<12} {', '.join(row[key]) or 'nothing'}" for key in ("requires", "establishes", "invalidates")
    ]
    lines.append(f"{'outputs':<12} {'unchanged' if row['exact'] else 'change: this pass loses precision'}")
    if row["options"]:
        shown = [(k, _default(v), row["meanings"].get(k, "")) for k, v in row["options"].items()]
        lines += ["", table(("option", "default", "what"), shown)]
    output.answer(row, "\n".join(lines))


def _pass_row(cls: Any) -> dict[str, Any]:
    return {
        "name": cls.name,
        "summary": cls.summary,
        "exact": cls.exact,
        **{
            key: sorted(fact.value for fact in getattr(cls, key))
            for key in ("requires", "establishes", "invalidates")
        },
        "options": {
            k: v if isinstance(v, (bool, int, float, str)) or v is None else str(v)
            for k, v in cls.options().items()
        },
        "meanings": cls.option_texts(),
    }


def _default(value: object) -> str:
    """As pipeline text has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command(short_help="Built-in recipes.")
@click.argument("name", required=False)
@common_options
def recipes(output: Output, name: str | None) -> None:
    """List the recipes, or print the TOML of the recipe NAME, ready to copy and edit."""
    from lpcompile.recipes import load_recipe, recipe_names
    from lpcompile.report.table import table

    if name is None:
        rows = [{"name": n, "summary": load_recipe(n).summary} for n in recipe_names()]
        text = table(("recipe", "what"), [(r["name"], r["summary"]) for r in rows])
        output.answer({"recipes": rows}, text + "\n\n'lpcompile recipes NAME' prints one.")
        return
    recipe = load_recipe(name)
    output.answer({"name": name, "summary": recipe.summary, "toml": recipe.text}, recipe.text.rstrip())
