"""`lpcompile report DIR|report.json`: what a compilation reported, shown again without the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output
from lpcompile.cli._programs import refuse_existing_file, write_file
from lpcompile.output import FINAL

NAME = "report.json"


@click.command("report", short_help="Show the report of a compilation again, as text or as a page.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the page there: one file, no network.",
)
@click.option("--time-passes", is_flag=True, help="Show the time of each pass, too.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@common_options
def report_command(output: Output, path: Path, html: Path | None, time_passes: bool, force: bool) -> None:
    """Show PATH, a report.json or the folder that holds one; with --html, as the page that stands beside it."""
    from lpcompile.report.json import read_report
    from lpcompile.report.page import page
    from lpcompile.report.rendering import rendered
    from lpcompile.report.text import pass_times, summary

    if html is not None:
        refuse_existing_file(html, force=force)
    source = path / NAME if path.is_dir() else path
    document = read_report(source)
    if html is not None:
        text = rendered(page, document, source).encode(errors="backslashreplace")  # of paths that are no text
        write_file(html, text)
        output.answer({"written": str(html), "bytes": len(text)}, f"wrote {html}")
        return
    there = [f for name in FINAL if (f := source.parent / name).is_file()]

    def shown(found: Mapping[str, Any]) -> str:
        short = summary(found, there)
        return f"{short}\n\n{pass_times(found)}" if time_passes else short

    output.answer(document, rendered(shown, document, source))
