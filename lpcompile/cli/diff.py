"""`lpcompile diff A B`: two models on the same inputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import Shapes, common_options, input_shape_option, model_file, threads_option
from lpcompile.cli._output import Output
from lpcompile.errors import BudgetError, ModelError

if TYPE_CHECKING:
    from lpcompile.runtime.compare import Comparison


@click.command(short_help="Differences of two models on the same inputs.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--input", "feeds", type=click.Path(path_type=Path), metavar="FEEDS.npz", help="One call's inputs."
)
@click.option("--calibration-data", "data", metavar="DATA", help="Samples, as for compiling.")
@click.option(
    "--random", "seed", type=click.IntRange(min=0), metavar="N", help="Seed of random inputs (without data)."
)
@click.option("--tensors", is_flag=True, help="Compare inner tensors of the same name too.")
@click.option("--tolerance", type=click.FloatRange(min=0), help="Exit 4 where an output differs by more.")
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
    tensors: bool,
    tolerance: float | None,
    input_shapes: Shapes,
    threads: int,
) -> None:
    """Compare B with A: files, or folders that compiled models were written to.

    SQNR is that of B's outputs against A's; quantised inner tensors are compared by their real values.
    """
    if sum(x is not None for x in (feeds, data, seed)) > 1:
        raise click.UsageError("give one of --input, --calibration-data and --random")
    paths = model_file(first), model_file(second)

    from lpcompile.cli._feeds import calls_of
    from lpcompile.runtime.compare import compare
    from lpcompile.runtime.session import Session
    from lpcompile.runtime.tensors import open_tensors

    if tensors:
        runs, inputs = open_tensors(*paths, threads=threads)
    else:
        sessions = [Session(p, threads=threads) for p in paths]
        runs, inputs = (sessions[0].run, sessions[1].run), sessions[0].inputs
        _same_interface([s.name for s in inputs], [s.name for s in sessions[1].inputs], second)
    calls, source = calls_of(inputs, feeds=feeds, data=data, seed=seed or 0, shapes=input_shapes)
    comparison = compare((runs[0](call), runs[1](call)) for call in calls)
    document = {
        "a": str(paths[0]),
        "b": str(paths[1]),
        "feeds": source,
        "calls": len(calls),
        **figures(comparison),
    }
    output.answer(document, text_of(document))
    worst = max(((t["max_abs"], t["name"]) for t in document["tensors"]), default=(0.0, ""))
    if tolerance is not None and worst[0] > tolerance:
        raise BudgetError(
            f"'{worst[1]}' differs by {worst[0]:.3g}, more than the tolerance {tolerance:g}",
            hint="see the column 'max abs' for every tensor",
        )


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


def text_of(document: dict[str, Any]) -> str:
    """The figures of `figures` as a table."""
    from lpcompile.report.table import db_text, table

    rows = [
        (t["name"], db_text(t["sqnr_db"]), t["max_abs"], t["agreement"], t["different"], t["elements"])
        for t in document["tensors"]
    ]
    header = ("tensor", "SQNR", "max abs", "agreement", "different", "elements")
    return f"{document['samples']} samples of {document['feeds']}\n{table(header, rows)}"


def _same_interface(first: list[str], second: list[str], where: str) -> None:
    if set(first) != set(second):
        raise ModelError(
            f"the models take different inputs ({', '.join(first)}; {', '.join(second)})",
            where=where,
            hint="compare models of the same interface",
        )
