"""`lpcompile tune MODEL`: compile, with the rounded weights retrained on the samples."""

import os
from pathlib import Path
from typing import Any

import click

from lpcompile.cli._options import (
    OptionError,
    checkpoint_option,
    common_options,
    input_shape_option,
    input_value_option,
    mirror_option,
    model_file,
    resume_option,
    threads_option,
)
from lpcompile.cli._output import Output
from lpcompile.registry import TARGETS

# of the pass tune-weights, without its imports
ESTIMATORS = ("auto", "tanh", "ste", "linear", "lsq")
LOSSES = ("auto", "kl", "mse", "kl-or-mse", "cross-entropy")
OPTIMISERS = ("adam", "sgd", "nesterov")
PASS_OPTIONS = ("epochs", "batch", "estimator", "optimiser", "learning_rate", "loss", "labels")


@click.command("tune", short_help="Compile a model and retrain its rounded weights.")
@click.argument("model")
@click.option(
    "--calibration-data",
    metavar="DATA",
    required=True,
    help="Samples: .npz, a folder, or package.module:attribute.",
)
@click.option("-t", "--target", type=click.Choice(list(TARGETS)), default="ort", help="Where it shall run.")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="Folder; default ./MODEL-TARGET."
)
@click.option("--recipe", metavar="NAME|FILE", help="A recipe by name, or a TOML file.")
@click.option("--weight-format", metavar="FORMAT", help="Weights of every layer, as fixp4 or posit4.")
@click.option("--activation-format", metavar="FORMAT", help="Activations, as uint8 or uint4.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="How often each sample is seen.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples a step.")
@click.option("--estimator", type=click.Choice(ESTIMATORS), help="What stands for the gradient of rounding.")
@click.option("--optimiser", type=click.Choice(OPTIMISERS), help="What takes the steps.")
@click.option("--learning-rate", type=float, metavar="RATE", help="In steps of the weights' quantisers.")
@click.option("--loss", type=click.Choice(LOSSES), help="Against the float model's outputs, or labels.")
@click.option("--labels", metavar="NAME", help="Learn from this array of labels among the samples.")
@click.option("--tune-option", multiple=True, metavar="NAME=VALUE", help="Any option of tune-weights.")
@checkpoint_option
@resume_option
@input_shape_option
@input_value_option
@mirror_option
@click.option("--machine", metavar="NAME|FILE", help="The machine (cim): its name, or a TOML description.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Of every random choice.")
@click.option("--force", is_flag=True, help="Overwrite files of an earlier run.")
@threads_option
@common_options
def tune(
    output: Output,
    model: str,
    calibration_data: str,
    target: str,
    out: Path | None,
    recipe: str | None,
    tune_option: tuple[str, ...],
    **given: Any,
) -> None:
    """Compile MODEL and retrain its rounded weights on the samples.

    Learns the float model's outputs, or labels. Writes what `lpcompile MODEL` writes.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    path = model_file(model, folder=False)
    out = out or Path(f"{path.stem}-{target}")
    tuning = _tuning({key: given.pop(key) for key in PASS_OPTIONS}, tune_option)
    if given["resume"] and given["checkpoint"] is None:
        raise OptionError("--resume needs a folder to resume from", "name it with --checkpoint DIR")

    from lpcompile.output import ALWAYS, refuse_existing

    refuse_existing(out, force=given["force"])

    from lpcompile.api import tune as tune_model
    from lpcompile.report.text import summary

    progress = output.progress()
    try:
        artefacts = tune_model(
            path,
            calibration_data,
            target=target,
            recipe=recipe,
            tuning=tuning,
            output=out,
            progress=progress,
            **given,
        )
    finally:
        progress.close()
    if output.quiet and not output.json:
        return
    metrics: dict[str, float] = next(
        (p["metrics"] for p in artefacts.report["passes"] if p["name"] == "tune-weights"), {}
    )
    text = summary(artefacts.report, [out / name for name in (*ALWAYS, *artefacts.files)])
    if "loss_held_before" in metrics:
        text += (
            f"\nretrained: loss on held-out samples {metrics['loss_held_before']:.4g} -> "
            f"{metrics['loss_held_after']:.4g} (epoch {metrics['best_epoch']} of {metrics['epochs']})"
        )
    output.answer(artefacts.report, text)


def _tuning(named: dict[str, Any], further: tuple[str, ...]) -> dict[str, str]:
    found = {key.replace("_", "-"): str(value) for key, value in named.items() if value is not None}
    if "labels" in found:
        found.setdefault("loss", "cross-entropy")
    for item in further:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise OptionError(
                f"--tune-option takes NAME=VALUE, not '{item}'", "see 'lpcompile passes tune-weights'"
            )
        found[key] = value
    return found
