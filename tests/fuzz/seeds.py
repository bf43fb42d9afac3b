"""Sound inputs from which broken ones are made: each is cheap to compile."""

import functools
from importlib import resources
from pathlib import Path
from random import Random

import numpy as np
from onnx import ModelProto

import lpcompile
from lpcompile.ir import io
from tests.corpus import file_case
from tests.networks import SHIPPED, TOYS, compiled_toy, shipped, toy, toy_calls
from tests.zoo.entries import find_zoo

_FOREIGN = ("light/light_squeezenet.onnx", "simple/test_gradient_of_add/model.onnx")
_COMPILED = (
    ("conv_bn_relu", "int8", "functions"),
    ("conv_bn_relu", "w4a8", "standard"),
    ("residual_add", "int8", "qdq"),
    ("matmul_bias", "w4a8", "functions"),
    ("depthwise", "w4a4", "functions"),
)


@functools.cache
def model_seed(name: str) -> ModelProto:
    """A model by the name that `model_names` gives it."""
    kind, _, rest = name.partition(":")
    if kind == "toy":
        return toy(rest)
    if kind == "compiled":
        toy_name, recipe, emit = rest.split("/")
        return compiled_toy(toy_name, recipe, emit=emit).model
    if kind == "zoo":
        return io.load(Path(rest)).to_proto()
    if kind == "onnx":
        return file_case(rest).model
    return io.load(shipped(rest)).to_proto()


def model_names(rng: Random) -> str:
    """Mostly toys; sometimes compiled ones, a shipped network, one of the zoo."""
    draw = rng.random()
    zoo = zoo_files()
    if zoo and draw < 0.08:
        return f"zoo:{rng.choice(zoo)}"
    if draw < 0.12:
        return f"digits:{rng.choice(SHIPPED)}"
    if draw < 0.3:
        return "compiled:" + "/".join(rng.choice(_COMPILED))
    return f"toy:{rng.choice(TOYS)}"


@functools.cache
def zoo_files() -> tuple[str, ...]:
    """Small models of the folder that LPCOMPILE_ZOO names."""
    zoo = find_zoo(None)
    if zoo is None:
        return ()
    files = sorted(zoo.root.glob("**/*.onnx"))
    return tuple(str(f) for f in files if f.stat().st_size < 1_000_000)


@functools.cache
def samples(name: str) -> dict[str, np.ndarray]:
    """Samples for a seed, arrays by input; none for what has none recorded."""
    kind, _, rest = name.partition(":")
    if kind in ("toy", "compiled"):
        calls = toy_calls(rest.split("/")[0])
        return {k: np.concatenate([np.atleast_1d(c[k]) for c in calls]) for k in calls[0]}
    return dict(np.load(shipped(rest).with_suffix(".calib.npz"))) if kind == "digits" else {}


@functools.cache
def program() -> tuple[bytes, str]:
    """A small program, binary and as text."""
    made = lpcompile.compile(
        toy("conv_bn_relu"), target="cim", calibration=toy_calls("conv_bn_relu"), recipe="int8"
    )
    return made.files["program.lpcim"], made.files["program.lpcasm"].decode()


@functools.cache
def machine_texts() -> tuple[str, ...]:
    """Every machine that ships."""
    return _texts("lpcompile.backends.cim", "machines")


@functools.cache
def recipe_texts() -> tuple[str, ...]:
    """Every recipe that ships."""
    return _texts("lpcompile.recipes", ".")


def _texts(package: str, folder: str) -> tuple[str, ...]:
    found = [f for f in resources.files(package).joinpath(folder).iterdir() if f.name.endswith(".toml")]
    return tuple(f.read_text("utf-8") for f in sorted(found, key=lambda f: f.name))


@functools.cache
def decisions_text(name: str) -> str:
    """What a compilation of a toy decided."""
    return compiled_toy(name, "w4a8").decisions


@functools.cache
def report_text(recipe: str) -> str:
    """What a compilation of a toy reported."""
    from lpcompile.report.json import to_json

    return to_json(compiled_toy("residual_add", recipe).report)
