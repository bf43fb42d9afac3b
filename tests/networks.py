"""The networks of `models/`, with samples, and the formats of layers as tests name them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.backends.ort.costs import RecordedCosts
from tests.support import Array

MODELS = Path(__file__).resolve().parents[1] / "models"
SHIPPED = ("digits_mobilenet", "digits_resnet", "digits_transformer")
TOYS = tuple(sorted(p.stem for p in (MODELS / "toy").glob("*.onnxtxt")))
FOUR_BIT = ("fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn")
Calls = list[dict[str, Array]]


def toy(name: str) -> ModelProto:
    """A graph of `models/toy`, one's own to change."""
    own = ModelProto()
    own.CopyFrom(_parsed_toy(name))
    return own


@functools.cache
def _parsed_toy(name: str) -> ModelProto:
    return onnx.parser.parse_model((MODELS / "toy" / f"{name}.onnxtxt").read_text("utf-8"))


def toy_calls(name: str, count: int = 8) -> Calls:
    """Seeded normal samples for a toy, one call each; flags are true."""
    rng = np.random.default_rng(5)
    inputs = [(i.name, i.type.tensor_type) for i in toy(name).graph.input]
    shapes = {n: [d.dim_value or 4 for d in t.shape.dim] for n, t in inputs}
    flags = {n for n, t in inputs if t.elem_type == onnx.TensorProto.BOOL}
    return [
        {
            n: np.array(True) if n in flags else rng.standard_normal(s).astype(np.float32)
            for n, s in shapes.items()
        }
        for _ in range(count)
    ]


def shipped(name: str) -> Path:
    """The file of a shipped network."""
    return MODELS / f"{name}.onnx"


def shipped_data(name: str, part: str = "calib") -> Path:
    """Its samples: "calib" or "eval"."""
    return MODELS / f"{name}.{part}.npz"


@functools.cache
def compiled_network(name: str, recipe: str, **options: Any) -> lpcompile.Artefacts:
    """A shipped network compiled with its samples; made once for all tests, so do not change it."""
    return lpcompile.compile(shipped(name), calibration=shipped_data(name), recipe=recipe, **options)


def compiled_toy(
    name: str, recipe: str = "int8", *, emit: str = "functions", costs: bool = False, **options: Any
) -> lpcompile.Artefacts:
    """A toy compiled with its samples; made once for all tests, so do not change it.

    Args:
        name: of the toy.
        recipe: as `lpcompile.compile` takes it.
        emit: as there.
        costs: whether costs are known; else `without_costs`.
        options: more of them.
    """
    return _compiled_toy(name, recipe, emit, costs, **options)


@functools.cache
def _compiled_toy(name: str, recipe: str, emit: str, costs: bool, **options: Any) -> lpcompile.Artefacts:
    with pytest.MonkeyPatch.context() as patch:
        if not costs:
            without_costs(patch)
        return lpcompile.compile(toy(name), calibration=toy_calls(name), recipe=recipe, emit=emit, **options)


def without_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cost be known, so that every layer runs on integers that can: toys are faster as floats."""
    monkeypatch.setattr(RecordedCosts, "layer_ns", lambda *_: None)
