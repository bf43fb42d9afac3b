"""`lpcompile run MODEL`: one call of a model in ONNX Runtime."""

import time
from pathlib import Path

import click

from lpcompile.cli._options import (
    Shapes,
    common_options,
    feeds_option,
    input_shape_option,
    model_file,
    random_feeds_option,
    result_option,
    threads_option,
)
from lpcompile.cli._output import Output


@click.command(short_help="Run a model in ONNX Runtime.")
@click.argument("model")
@feeds_option
@result_option
@random_feeds_option
@input_shape_option
@threads_option
@click.option("--force", is_flag=True, help="Overwrite RESULT.npz.")
@common_options
def run(
    output: Output,
    model: str,
    feeds: Path | None,
    result: Path | None,
    seed: int | None,
    input_shapes: Shapes,
    threads: int,
    force: bool,
) -> None:
    """Run MODEL once: a file, or a folder that a compiled model was written to.

    FEEDS.npz holds one call, arrays named after the inputs; without it inputs are random.
    """
    if feeds is not None and seed is not None:
        raise click.UsageError("--input and --random exclude each other")
    path = model_file(model)

    from lpcompile.cli._feeds import calls_of, tensor_rows, write_npz
    from lpcompile.errors import OutputError
    from lpcompile.report.table import table
    from lpcompile.runtime.session import Session

    if result is not None and result.exists() and not force:
        raise OutputError("the file exists", where=str(result), hint="overwrite it with --force")
    session = Session(path, threads=threads)
    calls, source = calls_of(session.inputs, feeds=feeds, data=None, seed=seed or 0, shapes=input_shapes)
    if feeds is None:
        output.note(f"inputs: {source}")
    start = time.perf_counter()
    outputs = session.run(calls[0])
    seconds = time.perf_counter() - start
    if result is not None:
        write_npz(result, outputs, force=force)
    rows = list(tensor_rows(outputs))
    document = {"model": str(path), "feeds": source, "seconds": seconds, "outputs": rows}
    if result is not None:
        document["written"] = str(result)
    text = table(
        ("output", "type", "shape", "min", "max", "mean"),
        [(r["name"], r["dtype"], _dims(r["shape"]), r["min"], r["max"], r["mean"]) for r in rows],
    )
    bad = [str(r["name"]) for r in rows if not r["finite"]]
    if bad:
        output.note(f"warning: NaN or infinity in {', '.join(bad)}")
    if result is not None:
        text += f"\nwrote {result}"
    output.answer(document, text)


def _dims(shape: object) -> str:
    dims = shape if isinstance(shape, list) else []
    return "x".join(map(str, dims)) or "scalar"
