"""Options that several commands share, and the kinds of values that options take."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from lpcompile.assignment.budget import ADDITIVE, MEASURED, RATES
from lpcompile.cli._output import Output
from lpcompile.errors import ModelError

F = TypeVar("F", bound=Callable[..., Any])

BUDGETS = tuple(sorted((*ADDITIVE, *MEASURED)))
Shapes = dict[str, tuple[int, ...]]
REDUCE_RANGE = ("auto", "on", "off")  # as in `target`
EMIT_FORMS = ("functions", "standard", "qdq", "fp8-qdq", "integer")  # target.EMIT_FORMS, without its imports


class OptionError(click.UsageError):
    """A usage error that knows the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def common_options(command: F) -> F:
    """Add -v, -q, --json and --no-color; the function gets an `Output` as its first argument."""

    @functools.wraps(command)
    def with_output(*args: Any, verbose: int, quiet: bool, json: bool, no_color: bool, **kwargs: Any) -> Any:
        plain = no_color or bool(os.environ.get("NO_COLOR"))
        output = Output(json=json, quiet=quiet, verbose=verbose, color=False if plain else None)
        return command(output, *args, **kwargs)

    decorated: Any = with_output
    for option in (
        click.option("--no-color", is_flag=True, help="Plain text."),
        click.option("--json", is_flag=True, help="One JSON document; errors are JSON, too."),
        click.option("-q", "--quiet", is_flag=True, help="Errors only."),
        click.option("-v", "--verbose", count=True, help="Tell passes; -vv: changes, tracebacks."),
    ):
        decorated = option(decorated)
    found: F = decorated
    return found


def parse_budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dict[str, float]:
    """Callback of `--budget name=value,name=value`, names among BUDGETS."""
    bounds: dict[str, float] = {}
    for item in [] if value is None else value.split(","):
        key, _, text = item.strip().partition("=")
        if key not in BUDGETS:
            raise OptionError(f"--budget knows no bound '{key}'", _near(key))
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not 0 < number < float("inf"):
            hint = f"for example --budget {key}={_EXAMPLES[key]}"
            raise OptionError(f"--budget {key} takes a positive number, not '{text}'", hint)
        if key in RATES and number > 1:
            hint = f"for example --budget {key}={_EXAMPLES[key]}"
            raise OptionError(f"--budget {key} is a rate up to 1, not {text}", hint)
        bounds[key] = number
    return bounds


_EXAMPLES = {
    "ace": "1e9",
    "acev2": "1e9",
    "agreement": "0.99",
    "avg-bits": "4.5",
    "bytes": "2000000",
    "energy-pj": "1e7",
    "metric-drop": "0.005",
    "posit-fraction": "0.1",
    "sqnr-db": "30",
}


def _near(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, BUDGETS, n=1)
    return f"did you mean '{near[0]}'?" if near else f"bounds are: {', '.join(BUDGETS)}"


def parse_shapes(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> Shapes:
    """Callback of `--input-shape name=1x3x224x224`."""
    shapes: Shapes = {}
    for value in values:
        name, _, dims = value.rpartition("=")
        words = dims.split("x")
        if not name or not all(w.isdecimal() and int(w) > 0 for w in words):
            hint = "for example --input-shape image=1x3x224x224"
            raise OptionError(f"--input-shape takes NAME=SHAPE, not '{value}'", hint)
        shapes[name] = tuple(int(w) for w in words)
    return shapes


def parse_values(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, float]:
    """Callback of `--input-value sr=16000`."""
    found: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found.pop(name, None)
        if not name or name not in found or not math.isfinite(found[name]):
            raise OptionError(
                f"--input-value takes NAME=NUMBER, not '{value}'", "for example --input-value sr=16000"
            )
    return found


def parse_pairs(_ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, str] | None:
    """Callback of an option NAME=VALUE,...; None where it is not given."""
    if value is None:
        return None
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        key, equals, text = item.partition("=")
        if not equals or not key or not text:
            raise OptionError(f"{param.opts[0]} takes NAME=VALUE,..., not '{item}'", "for example epochs=10")
        pairs[key] = text
    return pairs


checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where learning keeps its state.",
)
resume_option = click.option("--resume", is_flag=True, help="Go on from the state in --checkpoint.")
feeds_option = click.option(
    "--input", "feeds", type=click.Path(path_type=Path), metavar="FEEDS.npz", help="Inputs by name."
)
result_option = click.option(
    "-o", "--output", "result", type=click.Path(path_type=Path), metavar="RESULT.npz", help="Outputs by name."
)
random_feeds_option = click.option(
    "--random",
    "seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Seed of random inputs.",
)
input_shape_option = click.option(
    "--input-shape",
    "input_shapes",
    callback=parse_shapes,
    multiple=True,
    metavar="NAME=SHAPE",
    help="Of symbolic axes, as x=1x3x224x224.",
)
input_value_option = click.option(
    "--input-value",
    "input_values",
    callback=parse_values,
    multiple=True,
    metavar="NAME=NUMBER",
    help="An input that takes one value for good, as sr=16000: branches that it chooses fold.",
)
mirror_option = click.option("--mirror-samples", is_flag=True, help="Mirror images of samples decide, too.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Threads of ONNX Runtime; 0: its own choice.",
)


def model_file(text: str, *, folder: bool = True) -> Path:
    """The model file that a word on the command line means.

    Args:
        text: a file, or with `folder` also a folder that a compiled model was written to.
        folder: whether a folder is an answer.

    Raises:
        ModelError: there is none.
    """
    path = Path(text)
    if folder and path.is_dir():
        if not (path / "model.onnx").is_file():
            hint = "give an .onnx file, or the folder that 'lpcompile MODEL' wrote"
            raise ModelError("the folder holds no model.onnx", where=text, hint=hint)
        return path / "model.onnx"
    if path.is_dir():
        raise ModelError("this is a folder", where=text, hint="give the .onnx file inside it")
    if not path.exists():
        raise ModelError("there is no such file", where=text, hint=_near_file(path))
    if not os.access(path, os.R_OK):
        raise ModelError("the file may not be read", where=text, hint="check its permissions")
    return path


def _near_file(path: Path) -> str:
    import difflib

    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.onnx")], n=1)
        if near:
            return f"did you mean '{path.parent / near[0]}'?"
    return "check the path of the model"
