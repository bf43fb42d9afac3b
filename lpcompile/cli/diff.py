"""`lpcompile diff A B`: two models on the same inputs, or two compilations by their reports."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import Shapes, common_options, input_shape_option, model_file, threads_option
from lpcompile.cli._output import Output
from lpcompile.errors import BudgetError, InputError

if TYPE_CHECKING:
    from lpcompile.runtime.compare import Comparison
    from lpcompile.runtime.error_path import ErrorPath

REPORT = "report.json"


@click.command(short_help="Differences of two models, or of two compilations.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--input", "feeds", type=click.Path(path_type=Path), metavar="FEEDS.npz", help="One call's inputs."
)
@click.option("--calibration-data", "data", metavar="DATA", help="Samples, as for compiling.")
@click.option(
    "--random", "seed", type=click.IntRange(min=0), metavar="N", help="Seed of random inputs (without data)."
)
@click.option(
    "--tensors/--outputs",
    "tensors",
    default=None,
    help="Of models: all tensors that both have, or only outputs.  [default: tensors]",
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Exit 4 where an output differs by more.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row a tensor, or a layer, as CSV.")
@input_shape_option
@threads_option
@common_options
def diff(
    output: Output,
    first: str,
    second: str,
    feeds: Path | None,
    data: str | None,
    seed: int | None,
    tensors: bool | None,
    tolerance: float | None,
    as_csv: bool,
    input_shapes: Shapes,
    threads: int,
) -> None:
    """Compare B with A: two models, or two compilations.

    Of models the SQNR of each tensor of B against A is shown along the graph, and where error enters. Two output
    folders, or two report.json, are compared by what was decided and reached; with inputs named, by their models.
    """
    if sum(x is not None for x in (feeds, data, seed)) > 1:
        raise click.UsageError("give one of --input, --calibration-data and --random")
    if as_csv and output.json:
        raise click.UsageError("give one of --csv and --json")
    wants_models = any(x is not None for x in (feeds, data, seed, tensors, tolerance))
    if not wants_models and all(_report_file(word) for word in (first, second)):
        document = _reports(first, second)
        from lpcompile.report.difference_text import reports_csv, reports_text

        output.answer(document, reports_csv(document) if as_csv else reports_text(document))
        return
    for word in (first, second):
        if Path(word).suffix == ".json":
            raise InputError(
                "a report cannot be compared with a model, nor run",
                where=word,
                hint="give two reports, or the folders they stand in",
            )
    paths = model_file(first), model_file(second)
    document, outputs = _models(
        output, paths, feeds, data, seed or 0, tensors is not False, input_shapes, threads
    )
    from lpcompile.report.difference_text import models_csv, models_text

    output.answer(document, models_csv(document) if as_csv else models_text(document))
    worst = max(((t["max_abs"], t["name"]) for t in figures(outputs)["tensors"]), default=(0.0, ""))
    if tolerance is not None and worst[0] > tolerance:
        raise BudgetError(
            f"'{worst[1]}' differs by {worst[0]:.3g}, more than the tolerance {tolerance:g}",
            hint="see the column 'max abs' for every tensor",
        )


def _models(
    output: Output,
    paths: tuple[Path, Path],
    feeds: Path | None,
    data: str | None,
    seed: int,
    tensors: bool,
    shapes: Shapes,
    threads: int,
) -> "tuple[dict[str, Any], Comparison]":
    from lpcompile.cli._feeds import calls_of
    from lpcompile.progress import Steps
    from lpcompile.runtime.compare import compare
    from lpcompile.runtime.error_path import error_path
    from lpcompile.runtime.session import Session
    from lpcompile.runtime.tensors import check_inputs, open_tensors

    shown = output.progress()
    progress = Steps(shown)
    try:
        if tensors:
            shared = open_tensors(*paths, threads=threads)
            calls, source = calls_of(shared.inputs, feeds=feeds, data=data, seed=seed, shapes=shapes)
            path = error_path(shared, progress.over("comparing", calls))
            found = {**figures(path.outputs), **_along(path)}
            outputs = path.outputs
        else:
            a, b = (Session(p, threads=threads) for p in paths)
            check_inputs([s.name for s in a.inputs], [s.name for s in b.inputs], where=paths[1])
            calls, source = calls_of(a.inputs, feeds=feeds, data=data, seed=seed, shapes=shapes)
            outputs = compare((a.run(call), b.run(call)) for call in progress.over("comparing", calls))
            found = figures(outputs)
    finally:
        shown.close()
    return {"a": str(paths[0]), "b": str(paths[1]), "feeds": source, "calls": len(calls), **found}, outputs


def _along(path: "ErrorPath") -> dict[str, Any]:
    rows = {t["name"]: t for t in figures(path.comparison)["tensors"]}
    points = [
        {
            **rows[p.name],
            "node": p.origin.node,
            "op": p.origin.op,
            "output": p.origin.is_output,
            "sources_db": p.sources_db,
            "enters": p.enters,
            "rescaled": p.rescaled,
        }
        for p in path.points
    ]
    return {"tensors": points, "entries": [p for p in points if p["enters"]], "unlike": path.unlike}


def figures(comparison: "Comparison") -> dict[str, Any]:
    """A comparison as data."""
    return {
        "samples": comparison.samples,
        "sqnr_db": comparison.sqnr_db,
        "agreement": comparison.agreement,
        "kl": comparison.kl,
        "tensors": [
            {
                "name": name,
                "sqnr_db": t.sqnr_db,
                "max_abs": t.max_abs if t.is_float else float(t.different > 0),
                "agreement": t.agreement,
                "different": t.different,
                "elements": t.elements,
            }
            for name, t in comparison.tensors.items()
        ],
    }


def _report_file(word: str) -> Path | None:
    """The report that a word means, if it means one."""
    path = Path(word)
    if path.suffix == ".json":
        return path
    return path / REPORT if (path / REPORT).is_file() else None


def _reports(first: str, second: str) -> dict[str, Any]:
    from lpcompile.report.difference import difference
    from lpcompile.report.json import read_report
    from lpcompile.report.rendering import rendered

    files = [f for word in (first, second) if (f := _report_file(word)) is not None]
    a, b = (read_report(f) for f in files)
    found = rendered(lambda report: difference(report, b), a, f"{first}, {second}")
    return {"a": first, "b": second, **found}
