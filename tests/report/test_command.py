"""The command of a report asks for what was asked for."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lpcompile.cli.compile import compile_command
from lpcompile.report.command import command_line
from lpcompile.target import Options

HELP = ["-h", "--help"]  # as the group has them: click keeps the first that it sees
OPTIONS: list[dict[str, Any]] = [
    {},
    {
        "recipe": "w4a8",
        "weight_format": "nf4",
        "activation_format": "uint4",
        "group_size": 0,
        "rank": 4,
        "seed": 7,
    },
    {"machine": "my machines/a.toml", "strict": True, "host": ("n 1", "n2"), "emit": "standard"},
    {"input_shapes": {"x": (1, 3, 8, 8), "y": (2,)}, "budget": {"avg-bits": 4.5, "sqnr-db": 30.0}},
    {"mirror_samples": True},
    {"reduce_range": "on"},
    {"input_values": {"sr": 16000.0, "mode": 0.5}},
    {
        "passes": "fold-batchnorm, quantize-weights{format=int8}",
        "effort": 0,
        "opset": 17,
        "keep_float": ("c",),
    },
    {"verify": True, "benchmark": True, "save_temps": True, "dry_run": True, "force": True, "threads": 2},
    {"decisions": Path("decisions.toml"), "print_after": ("fold-batchnorm",)},
    {"tuning": {"epochs": "3", "loss": "kl"}, "checkpoint": Path("my states"), "resume": True},
    {"tuning": {}},
    {"metric": "mine:top1", "layer_formats": ("head.*=int8", "a=nf4/group16")},
]


@pytest.mark.parametrize("given", OPTIONS)
@pytest.mark.parametrize("data", [None, "samples.npz", Path("my data/calib")])
def test_the_command_line_reads_back(given: dict[str, Any], data: Any) -> None:
    options = Options(**given)
    words = shlex.split(command_line("a model.onnx", "cim", options, data))
    assert words[0] == "lpcompile"
    found = compile_command.make_context("compile", words[1:], help_option_names=HELP).params
    assert (found["model"], found["target"]) == ("a model.onnx", "cim")
    assert found["calibration_data"] == (None if data is None else str(data))
    assert Options(**{f.name: found[f.name] for f in fields(Options)}) == options


def test_every_option_is_shown() -> None:
    """A field of `Options` that is new needs its words, and a case above."""
    assert {key for given in OPTIONS for key in given} == {f.name for f in fields(Options)}


def test_samples_that_are_no_path_are_left_out() -> None:
    assert command_line(None, "ort", Options(), [{"x": 1}]) == "lpcompile MODEL --target ort"
