"""Options that several commands share, and the kinds of values that options take."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lpcompile.cli._output import Output
from lpcompile.errors import ModelError

F = TypeVar("F", bound=Callable[..., Any])

BUDGETS = ("agreement", "avg-bits", "bytes", "sqnr-db")
EMIT_FORMS = ("functions", "standard", "qdq")  # target.EMIT_FORMS, without its imports


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
        output.start_logging()
        return command(output, *args, **kwargs)

    decorated: Any = with_output
    for option in (
        click.option("--no-color", is_flag=True, help="Plain text."),
        click.option("--json", is_flag=True, help="Print one JSON document; errors are JSON too."),
        click.option("-q", "--quiet", is_flag=True, help="Errors only."),
        click.option("-v", "--verbose", count=True, help="Log each pass; -vv each change, and tracebacks."),
    ):
        decorated = option(decorated)
    found: F = decorated
    return found


class BudgetType(click.ParamType):
    """`name=value,name=value`, names among BUDGETS."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Parse and check the bounds."""
        if isinstance(value, dict):
            return value
        bounds: dict[str, float] = {}
        for item in str(value).split(","):
            key, equals, text = item.strip().partition("=")
            if key not in BUDGETS:
                raise OptionError(f"--budget knows no bound '{key}'", _near(key))
            try:
                number = float(text)
            except ValueError:
                number = float("nan")
            if not equals or not 0 < number < float("inf"):
                raise OptionError(
                    f"--budget {key} takes a positive number, not '{text}'",
                    f"for example --budget {key}={_EXAMPLES[key]}",
                )
            if key == "agreement" and number > 1:
                raise OptionError(
                    f"--budget agreement is a rate up to 1, not {text}", "for example --budget agreement=0.99"
                )
            bounds[key] = number
        return bounds


_EXAMPLES = {"agreement": "0.99", "avg-bits": "4.5", "bytes": "2000000", "sqnr-db": "30"}


def _near(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, BUDGETS, n=1)
    return f"did you mean '{near[0]}'?" if near else f"bounds are: {', '.join(BUDGETS)}"


class ShapeType(click.ParamType):
    """`name=1x3x224x224`."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Parse the name of an input and its dimensions."""
        if isinstance(value, tuple):
            return value
        name, equals, dims = str(value).rpartition("=")
        words = dims.split("x")
        if not equals or not name or not all(w.isdecimal() and int(w) > 0 for w in words):
            raise OptionError(
                f"--input-shape takes NAME=SHAPE, not '{value}'", "for example --input-shape image=1x3x224x224"
            )
        return name, tuple(int(w) for w in words)


input_shape_option = click.option(
    "--input-shape",
    "input_shapes",
    type=ShapeType(),
    multiple=True,
    metavar="NAME=SHAPE",
    help="Concrete shape of an input with symbolic axes, as x=1x3x224x224.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="Threads of ONNX Runtime; 0: its own choice."
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
