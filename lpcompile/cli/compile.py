"""`lpcompile MODEL --target TARGET`: the main command."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import (
    EMIT_FORMS,
    REDUCE_RANGE,
    OptionError,
    checkpoint_option,
    common_options,
    input_shape_option,
    input_value_option,
    mirror_option,
    model_file,
    parse_budget,
    parse_pairs,
    resume_option,
    threads_option,
)
from lpcompile.cli._output import Output
from lpcompile.counted import counted
from lpcompile.errors import DecisionsError, PipelineError
from lpcompile.registry import PASSES, TARGETS, WITH_MACHINES, near_match

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph
    from lpcompile.pipeline import Observer, Pass
    from lpcompile.records import PassReport


@click.command("compile", short_help="Compile a model; the word 'compile' may be left out.")
@click.argument("model")
@click.option("-t", "--target", type=click.Choice(list(TARGETS)), required=True, help="Where it shall run.")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="Folder; default ./MODEL-TARGET."
)
@click.option("--calibration-data", metavar="DATA", help="Samples: .npz, folder, or module:attribute.")
@click.option("--recipe", metavar="NAME|FILE", help="A recipe by name, or a TOML file.")
@click.option("--weight-format", metavar="FORMAT", help="Weights of every layer, as int8 or posit4.")
@click.option("--activation-format", metavar="FORMAT", help="Activations, as uint8 or uint4.")
@click.option("--group-size", type=click.IntRange(min=0), metavar="N", help="Inputs a group scale; 0: none.")
@click.option("--rank", type=click.IntRange(min=0), metavar="N", help="Of low-rank side paths; 0: none.")
@click.option("--budget", callback=parse_budget, metavar="NAME=VALUE,...", help="Bounds on the result.")
@click.option("--metric", metavar="MODULE:FUNCTION", help="Your own measure, for --budget metric-drop.")
@click.option(
    "--layer-format",
    "layer_formats",
    multiple=True,
    metavar="REGEX=FORMAT",
    help="Layers by name, as 'head.*=int8'; repeatable.",
)
@click.option("--decisions", type=click.Path(path_type=Path), metavar="FILE", help="Replay a decisions.toml.")
@click.option("--machine", metavar="NAME|FILE", help="Of cim: a name, or a TOML description.")
@click.option("--strict", is_flag=True, help="Refuse what would be a warning (cim).")
@click.option("--host", multiple=True, metavar="NODE", help="Stays on the host (cim); repeatable.")
@click.option("--keep-float", multiple=True, metavar="NODE", help="Stays float; repeatable.")
@click.option(
    "--emit",
    type=click.Choice(EMIT_FORMS),
    metavar="FORM",
    default="functions",
    help=f"How layers are written: {', '.join(EMIT_FORMS)}.",
)
@click.option(
    "--reduce-range",
    type=click.Choice(REDUCE_RANGE),
    metavar="WHEN",
    default="auto",
    help="Weights that x86 without VNNI adds right: auto, on, off.",
)
@click.option("--opset", type=click.IntRange(min=1), metavar="N", help="At least this opset.")
@input_shape_option
@input_value_option
@mirror_option
@click.option(
    "-O",
    "effort",
    type=click.IntRange(0, 3),
    default=1,
    metavar="0|1|2|3",
    help="0: round to nearest. 1: the recipe. 2: learn codes of few bits, too. 3: retrain, too.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Of every random choice.")
@click.option("-p", "--passes", metavar="TEXT", help="Pipeline text that replaces the recipe's.")
@click.option(
    "--print-after", multiple=True, metavar="PASS", help="Print the graph after a pass (on stderr)."
)
@click.option("--save-temps", is_flag=True, help="Keep graphs between passes: OUT/passes.")
@click.option("--verify", is_flag=True, help="Check after every pass that outputs agree.")
@click.option("--time-passes", is_flag=True, help="Print the time of each pass.")
@click.option("--benchmark", is_flag=True, help="Time both; what is slower falls back.")
@click.option(
    "--tune",
    "tuning",
    callback=parse_pairs,
    metavar="NAME=VALUE,...",
    help="Retrain, with options of tune-weights.",
)
@checkpoint_option
@resume_option
@click.option("--dry-run", is_flag=True, help="Decide everything, write nothing.")
@click.option("--force", is_flag=True, help="Overwrite files of an earlier run.")
@threads_option
@common_options
def compile_command(
    output: Output,
    model: str,
    target: str,
    out: Path | None,
    calibration_data: str | None,
    time_passes: bool,
    **given: Any,
) -> None:
    """Compile MODEL for a target.

    Writes model.onnx, report.json, decisions.toml and what else the target makes into the output folder, and prints a
    summary.
    """
    # Two layers are rounded at a time and ONNX Runtime has its own threads: more of them only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    path = model_file(model, folder=False)
    out = out or Path(f"{path.stem}-{target}")
    _check_names(given)
    _check_machine(target, given)
    if given["resume"] and given["checkpoint"] is None:
        raise OptionError("--resume needs a folder to resume from", "name it with --checkpoint DIR")
    if "metric-drop" in given["budget"] and not given["metric"]:
        raise OptionError("--budget metric-drop needs a metric", "name one with --metric MODULE:FUNCTION")

    from lpcompile.output import ALWAYS, refuse_existing

    if not given["dry_run"]:
        refuse_existing(out, force=given["force"])

    from lpcompile.api import compile as compile_model
    from lpcompile.report.text import pass_times, summary
    from lpcompile.target import Options

    options = Options(**given)
    progress = output.progress()
    try:
        artefacts = compile_model(
            path,
            target=target,
            calibration=calibration_data,
            output=None if options.dry_run else out,
            options=options,
            progress=progress,
            observe=_observer(output, options.print_after),
        )
    finally:
        progress.close()
    if output.quiet and not output.json:
        return
    written = [] if options.dry_run else [out / name for name in (*ALWAYS, *artefacts.files)]
    text = summary(artefacts.report, written)
    if time_passes:
        text += "\n\n" + pass_times(artefacts.report)
    output.answer(artefacts.report, text)


def _check_names(given: dict[str, Any]) -> None:
    for name in given["print_after"]:
        if name not in PASSES:
            raise PipelineError(f"no pass is called '{name}'", hint=near_match(name, list(PASSES)))
    decisions = given["decisions"]
    if decisions is not None and not decisions.is_file():
        hint = "give the decisions.toml of an earlier run"
        raise DecisionsError("there is no such file", where=str(decisions), hint=hint)


def _check_machine(target: str, given: dict[str, Any]) -> None:
    """Options of targets with machines, and the one that those do not have."""
    for name in ("machine", "strict", "host"):
        if given[name] and target not in WITH_MACHINES:
            hint = f"leave it out, or compile with --target {WITH_MACHINES[0]}"
            raise OptionError(f"--{name} means nothing to target '{target}'", hint)
    if given["emit"] == "qdq" and target in WITH_MACHINES:
        hint = "it emits: functions, standard"
        raise OptionError(f"target '{target}' cannot emit 'qdq', which holds no dyadic arithmetic", hint)


def _observer(output: Output, print_after: Sequence[str]) -> "Observer":
    """Tells of each pass what -v, -vv and --print-after ask for."""

    def observe(index: int, done: "Pass", graph: "LpGraph", report: "PassReport") -> None:
        if output.verbose:
            counts = f"{counted(len(report.changes), 'change')}, {counted(len(report.skips), 'skip')}"
            output.note(f"{done.text}: {counts}, {1000 * report.seconds:.1f} ms")
        if output.verbose > 1:
            for change in report.changes:
                output.note(
                    f"  {change.node}: {' '.join((change.what, change.before, change.after)).strip()}"
                )
            for skip in report.skips:
                output.note(f"  {skip.node}: left alone: {skip.reason}")
        if done.name in print_after:
            from lpcompile.ir.text import to_text

            click.echo(f"# after pass {index}, {done.text}\n{to_text(graph)}", err=True, color=output.color)

    return observe
