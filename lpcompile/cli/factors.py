"""`lpcompile factors`: side paths of a compiled model that stay apart, and other factors in their place."""

from pathlib import Path

import click

from lpcompile.cli._options import common_options, model_file
from lpcompile.cli._output import Output
from lpcompile.errors import InputError, OutputError

LAYER, OUTPUTS, INPUTS, RANK = "layer", "outputs", "inputs", "rank"


@click.command(short_help="Factors of side paths that stay apart: list, save, swap.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE.npz", help="Write the factors as real numbers."
)
@click.option(
    "--swap",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Take these factors, of any rank, in place of those of the layers that the file names.",
)
@click.option(
    "--output",
    "-o",
    "made",
    type=click.Path(path_type=Path),
    metavar="NEW.onnx",
    help="Of --swap: the new model.",
)
@click.option(
    "--calibration-data",
    metavar="DATA",
    help="Of --swap: samples, as for compiling. Paths of lowering concat-in need them.",
)
@click.option("--force", is_flag=True, help="Overwrite files.")
@common_options
def factors(
    output: Output,
    model: str,
    save: Path | None,
    swap: Path | None,
    made: Path | None,
    calibration_data: str | None,
    force: bool,
) -> None:
    """List the side paths of MODEL that stay apart from its weights, and save or swap their factors.

    A file holds 'LAYER/b' (outputs, rank) and 'LAYER/a' (rank, inputs): the layer's weights are those of its codes
    plus b a. Swapping rounds them to 8 bits; codes, scales and everything else in the model stay.
    """
    if (swap is None) != (made is None):
        raise click.UsageError("--swap and --output go together")
    path = model_file(model)

    import numpy as np
    import onnx

    from lpcompile.report.table import table
    from lpcompile.runtime.side_factors import read_factors, side_factors, swap_factors, written_factors

    for target in (save, made):
        if target is not None and target.exists() and not force:
            raise OutputError("this file exists", where=str(target), hint="overwrite it with --force")
    proto = onnx.load(path)
    if swap is not None and made is not None:
        try:
            with np.load(swap) as held:
                new = read_factors(dict(held), str(swap))
        except (OSError, ValueError) as error:
            raise InputError(
                "cannot read the factors: not an .npz file", where=str(swap), hint="check the path"
            ) from error
        proto = swap_factors(proto, new, calibration=calibration_data)
        onnx.save(proto, made)
    found = side_factors(proto)
    if save is not None:
        with save.open("wb") as file:
            np.savez(file, **written_factors(found))  # type: ignore[arg-type]
    rows = [(name, len(b), a.shape[1], len(a)) for name, (b, a) in found.items()]
    written = [str(p) for p in (save, made) if p is not None]
    output.answer(
        {
            "layers": [dict(zip((LAYER, OUTPUTS, INPUTS, RANK), r, strict=True)) for r in rows],
            "files": written,
        },
        "\n".join([table((LAYER, OUTPUTS, INPUTS, RANK), rows), *written]),
    )
