"""The command line of a compilation, as it can be typed again."""

import os
import shlex
from collections.abc import Iterator
from typing import Any

from lpcompile.target import Options

# of `Options`, those whose value follows a flag of the same name
_VALUES = (
    "recipe",
    "passes",
    "weight_format",
    "activation_format",
    "group_size",
    "rank",
    "metric",
    "decisions",
    "machine",
    "opset",
    "checkpoint",
)
_DEFAULTS = {"emit": "functions", "reduce_range": "auto", "seed": 0, "threads": 0}
_REPEATED = ("host", "keep_float", "layer_formats", "print_after")
_SPELLED = {"layer_formats": "layer_format"}
_FLAGS = ("mirror_samples", "strict", "verify", "benchmark", "save_temps", "dry_run", "force", "resume")


def command_line(path: str | None, target: str, options: Options, calibration: Any = None) -> str:
    """The words of a shell that compile the same again.

    Args:
        path: of the model; None where it was not a file, which shows as MODEL.
        target: where it shall run.
        options: everything that was asked for.
        calibration: samples; they can only be typed where they are a path or the name of an object.
    """
    words = ["lpcompile", path or "MODEL", "--target", target]
    if isinstance(calibration, (str, os.PathLike)):
        words += ["--calibration-data", os.fspath(calibration)]
    return shlex.join([*words, *_words(options)])


def _words(options: Options) -> Iterator[str]:
    for key in _VALUES:
        if (value := getattr(options, key)) is not None:
            yield from (_flag(key), str(value))
    if options.budget:
        yield from ("--budget", ",".join(f"{name}={bound!r}" for name, bound in options.budget.items()))
    if options.tuning is not None:
        yield from ("--tune", ",".join(f"{name}={value}" for name, value in options.tuning.items()))
    for name, shape in options.input_shapes.items():
        yield from ("--input-shape", f"{name}={'x'.join(map(str, shape))}")
    for name, number in options.input_values.items():
        yield from ("--input-value", f"{name}={number!r}")
    if options.effort != 1:
        yield f"-O{options.effort}"
    for key, default in _DEFAULTS.items():
        if (value := getattr(options, key)) != default:
            yield from (_flag(key), str(value))
    for key in _REPEATED:
        for value in getattr(options, key):
            yield from (_flag(_SPELLED.get(key, key)), value)
    yield from (_flag(key) for key in _FLAGS if getattr(options, key))


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
