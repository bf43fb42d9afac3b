"""`lpcompile verify MODEL`: whether a compiled model is sound and how near it is to the float model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import (
    OptionError,
    Shapes,
    common_options,
    input_shape_option,
    model_file,
    parse_budget,
    threads_option,
)
from lpcompile.cli._output import Output
from lpcompile.errors import BudgetError, PassError

if TYPE_CHECKING:
    from lpcompile.runtime.checks import Check
    from lpcompile.runtime.compare import Comparison


@click.command(short_help="Check a compiled model.")
@click.argument("model")
@click.option("--against", metavar="FLOAT.onnx", help="The float model to compare with.")
@click.option(
    "--calibration-data", "data", metavar="DATA", help="Samples, as for compiling; else random feeds."
)
@click.option("--budget", callback=parse_budget, metavar="NAME=VALUE,...", help="Bounds: sqnr-db, agreement.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Of random feeds.")
@input_shape_option
@threads_option
@common_options
def verify(
    output: Output,
    model: str,
    against: str | None,
    data: str | None,
    budget: dict[str, float],
    seed: int,
    input_shapes: Shapes,
    threads: int,
) -> None:
    """Check MODEL: a file, or a folder that a compiled model was written to.

    It must load in ONNX Runtime at its default level, run, give finite outputs, hold no dead initialisers and
    a body for every function, and give what its layers say; --against compares it. Exit 1: a check fails; 4: a
    bound is missed.
    """
    _check_budget(budget, against)
    path = model_file(model)
    reference = None if against is None else model_file(against)

    from lpcompile.cli._feeds import calls_of
    from lpcompile.cli.diff import figures
    from lpcompile.report.difference_text import models_text
    from lpcompile.report.table import table
    from lpcompile.runtime.checks import check_calls, check_file, check_outputs
    from lpcompile.runtime.compare import compare
    from lpcompile.runtime.session import Session

    checks = check_file(path, reference)
    session = Session(path, threads=threads)
    calls, source = calls_of(session.inputs, feeds=None, data=data, seed=seed, shapes=input_shapes)
    checks += check_outputs(session, calls)
    if all(c.ok for c in checks):
        checks += check_calls(path, calls)
    document: dict[str, Any] = {
        "model": str(path),
        "against": None if reference is None else str(reference),
        "feeds": source,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
    }
    text = table(("check", "ok", "detail"), [(c.name, "yes" if c.ok else "NO", c.detail) for c in checks])
    comparison = None
    if reference is not None:
        float_session = Session(reference, threads=threads)
        comparison = compare((float_session.run(call), session.run(call)) for call in calls)
        document["comparison"] = figures(comparison)
        text += "\n\n" + models_text({"feeds": source, **document["comparison"]})
    output.answer(document, text)
    _conclude(checks, comparison, budget, path)


def _check_budget(budget: dict[str, float], against: str | None) -> None:
    unknown = [k for k in budget if k not in ("sqnr-db", "agreement")]
    if unknown:
        raise OptionError(f"verify measures no '{unknown[0]}'", "bounds here are: sqnr-db, agreement")
    if budget and against is None:
        raise OptionError("--budget needs a model to compare with", "give it with --against FLOAT.onnx")


def _hint(failed: "list[Check]") -> str:
    from lpcompile.registry import target
    from lpcompile.runtime.checks import LAYERS

    if failed[0].name == LAYERS and target("ort").adds_pairs():
        return "this CPU adds products of 8 bits in 16: compile here, or anywhere with --reduce-range on"
    return "compile it again with --verify, which names the pass that did it, and report it"


def _conclude(
    checks: "list[Check]", comparison: "Comparison | None", budget: dict[str, float], path: Path
) -> None:
    failed = [c for c in checks if not c.ok]
    if failed:
        more = f" ({len(failed)} checks fail)" if len(failed) > 1 else ""
        hint = _hint(failed)
        raise PassError(f"{failed[0].name}: {failed[0].detail}{more}", where=str(path), hint=hint)
    if comparison is None:
        return
    measured = {"sqnr-db": comparison.sqnr_db, "agreement": comparison.agreement}
    for name, bound in budget.items():
        value = measured[name]
        if value is None or value < bound:
            shown = "not measurable" if value is None else f"{value:.4g}"
            raise BudgetError(
                f"{name} is {shown}, below {bound:g}",
                where=str(path),
                hint="compile with more bits, or ask for less",
            )
