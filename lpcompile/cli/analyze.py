"""`lpcompile analyze MODEL`: which layers mind being quantised, or with `--cost` what each node of the model costs."""

from pathlib import Path
from typing import Any

import click

from lpcompile.cli._options import (
    OptionError,
    common_options,
    input_shape_option,
    input_value_option,
    model_file,
    parse_pairs,
    threads_option,
)
from lpcompile.cli._output import Output
from lpcompile.cli._programs import write_file

# of the analysis, without its imports
LOSSES = ("auto", "labels", "sampled", "kl", "logits", "probe", "mse")
GRANULARITIES = ("tensor", "channel", "group")
RULES = ("mse", "absmax", "percentile", "maxent", "l1norm")
COEFFICIENTS = ("shift-coeff", "charge-accumulate", "wired-shift", "count-compare")
WITH_COST = (
    "model",
    "cost",
    "coefficients",
    "input_shapes",
    "input_values",
    "verbose",
    "quiet",
    "json",
    "no_color",
)


@click.command(short_help="Which layers mind being quantised; --cost: what nodes cost.")
@click.argument("model")
@click.option(
    "--calibration-data",
    "data",
    metavar="DATA",
    help="Samples: .npz, folder, or module:attribute. Needed, but for --cost.",
)
@click.option(
    "--cost",
    is_flag=True,
    help="Instead: arithmetic of every node of the model as it is, by class (ACEv2), and what costs most.",
)
@click.option(
    "--coefficients",
    callback=parse_pairs,
    metavar="NAME=VALUE,...",
    help="Of --cost: shift-coeff=1, charge-accumulate=0, wired-shift=1, count-compare=1.",
)
@click.option(
    "--method",
    "methods",
    metavar="NAME,...",
    default="fisher",
    help="gradient (s1), fisher (s2), hessian (s3), measured (s4), fisher-diagonal, propagated; sorted by the first.",
)
@click.option(
    "--measure", is_flag=True, help="Apply 'measured' as well: run the model with each layer quantised."
)
@click.option("--format", "fmt", metavar="FORMAT", default="int4", help="Of the weights, as int4 or posit4.")
@click.option("--granularity", type=click.Choice(GRANULARITIES), default="channel", help="Of their scales.")
@click.option("--rule", type=click.Choice(RULES), default="mse", help="Of their scales.")
@click.option("--loss", type=click.Choice(LOSSES), default="auto", help="What is lost.")
@click.option("--labels", metavar="NAME", help="Array among the samples, for --loss labels.")
@click.option("--activations", is_flag=True, help="Activations as well.")
@click.option(
    "--activation-format", type=click.Choice(("uint8", "uint4")), help="Of activations, uint8 if not given."
)
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use the first N samples.")
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    metavar="N",
    help="Random draws for each sample; 2 to 4 by their number if not given.",
)
@click.option(
    "--metric", metavar="MODULE:FUNCTION", help="Your own measure: what it drops by, one layer at a time."
)
@click.option(
    "--metric-layers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the N layers that score most.  [default: all]",
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all scores.")
@click.option(
    "--svg", "svg_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a chart of bars."
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write charts and tables."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Of every random choice.")
@click.option("--force", is_flag=True, help="Overwrite files.")
@input_shape_option
@input_value_option
@threads_option
@common_options
def analyze(
    output: Output,
    model: str,
    data: str | None,
    cost: bool,
    coefficients: dict[str, str] | None,
    methods: str,
    measure: bool,
    fmt: str,
    activations: bool,
    activation_format: str | None,
    csv_file: Path | None,
    svg_file: Path | None,
    html_file: Path | None,
    force: bool,
    **given: Any,
) -> None:
    """Rank the layers of a float MODEL by what it loses when their weights are quantised, one at a time.

    Everything but 'measured' comes from gradients; a model without them is measured, with a warning.

    With --cost: count what a call of MODEL computes, node by node; no samples are needed.
    """
    path = model_file(model, folder=False)
    if cost:
        _only(WITH_COST)
        _cost(output, path, coefficients, given["input_shapes"], given["input_values"])
        return
    if coefficients is not None:
        raise OptionError("--coefficients belong to --cost", "add --cost")
    if data is None:
        raise OptionError(
            "Missing option '--calibration-data'.", "samples as the model takes them, or ask for --cost"
        )
    if given["metric_layers"] is not None and given["metric"] is None:
        raise OptionError("--metric-layers needs a metric", "name one with --metric MODULE:FUNCTION")
    for file in (csv_file, svg_file, html_file):
        _refuse_existing(file, force=force)

    from lpcompile.layer_analysis import Question, analyze_model
    from lpcompile.report import sensitivity, sensitivity_page

    wanted = [*methods.split(","), *(["measured"] if measure else [])]
    asked = activation_format or ("uint8" if activations else "")
    question = Question(methods=tuple(wanted), format=fmt, activations=asked, **given)
    progress = output.progress()
    try:
        document = analyze_model(path, data, question, progress)
    finally:
        progress.close()
    for warning in document["warnings"]:
        output.note(f"warning: {warning}")
    written = []
    for file, render in (
        (csv_file, sensitivity.csv_of),
        (svg_file, sensitivity.bar_chart),
        (html_file, sensitivity_page.page),
    ):
        if file is not None:
            write_file(file, render(document).encode(errors="backslashreplace"))
            written.append(str(file))
    text = sensitivity.text_of(document)
    output.answer({**document, "written": written}, "\n".join([text, *(f"wrote {f}" for f in written)]))


def _only(names: tuple[str, ...]) -> None:
    """Refuse options that would do nothing."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        name = param.name or ""
        given = ctx.get_parameter_source(name)
        if name not in names and given is click.core.ParameterSource.COMMANDLINE:
            raise OptionError(f"{param.opts[0]} means nothing with --cost", "leave it out")


def _cost(
    output: Output,
    path: Path,
    coefficients: dict[str, str] | None,
    shapes: dict[str, tuple[int, ...]],
    values: dict[str, float],
) -> None:
    given = {key: _coefficient(key, text) for key, text in (coefficients or {}).items()}

    from lpcompile.analysis.arithmetic import Coefficients
    from lpcompile.graph_costs import model_costs
    from lpcompile.report.cost import cost_text

    by = Coefficients(**{key.replace("-", "_"): value for key, value in given.items()})
    document = model_costs(path, input_shapes=shapes, input_values=values, coefficients=by)
    output.answer(document, cost_text(document))


def _coefficient(key: str, text: str) -> Any:
    if key not in COEFFICIENTS:
        raise OptionError(f"there is no coefficient '{key}'", f"there are {', '.join(COEFFICIENTS)}")
    if key == COEFFICIENTS[0]:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if 0 <= number < float("inf"):
            return number
        raise OptionError(f"{key} takes a number from 0 on, not '{text}'", f"for example {key}=0.6")
    if text not in ("0", "1"):
        raise OptionError(f"{key} takes 0 or 1, not '{text}'", f"for example {key}=1")
    return text == "1"


def _refuse_existing(file: Path | None, *, force: bool) -> None:
    from lpcompile.errors import OutputError

    if file is not None and file.exists() and not force:
        raise OutputError("the file exists", where=str(file), hint="overwrite it with --force")
