"""Every registered pass as a function: on models, with its options, documented, and typed."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile import pass_functions, registry
from lpcompile.errors import DecisionsError, InputError, LpcompileError, PassOptionError, PipelineError
from lpcompile.pass_stub import stub
from lpcompile.pipeline import Kind, kind_of
from lpcompile.plan import Kernel
from lpcompile.records import PassReport
from lpcompile.runtime.compare import compare
from tests.networks import TOYS, compiled_network, shipped, shipped_data, toy, toy_calls
from tests.support import assert_same_outputs, conv_bn_model, run_model

NAMES = list(registry.PASSES)
REWRITES = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.REWRITES]
STARTS = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.STARTS]
CARRIES_ON = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.CARRIES_ON]
FEW_STEPS: dict[str, dict[str, Any]] = {  # enough to see that it works
    "assign-formats": {"avg_bits": 5.0, "joint": 0},
    "reconstruct-blocks": {"iterations": 4},
    "tune-weights": {"epochs": 1},
    "tune-scales": {"epochs": 1},
    "search-ranges": {"runs": 4, "samples": 16},
}
RESNET = onnx.load(shipped("digits_resnet"))
with np.load(shipped_data("digits_resnet")) as _data:
    CALLS = [{"image": _data["image"][i : i + 8]} for i in range(0, 64, 8)]
with np.load(shipped_data("digits_resnet", "eval")) as _data:
    FRESH = {"image": _data["image"]}


def function(name: str) -> Any:
    return getattr(lpcompile.passes, name.replace("-", "_"))


def sqnr_db(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    found = compare([(run_model(model, FRESH), run_model(other, FRESH))]).sqnr_db
    assert found is not None
    return found


@pytest.fixture(scope="module")
def started() -> lpcompile.PlannedModel:
    folded = lpcompile.passes.fold_batchnorm(RESNET)
    return lpcompile.passes.quantize_activations(folded, calibration=CALLS, format="uint4", ends="uint8")


@pytest.fixture(scope="module")
def rounded(started: lpcompile.PlannedModel) -> lpcompile.PlannedModel:
    return lpcompile.passes.quantize_weights(started, format="fixp4", rounding="gptq")


def test_all_kinds_are_here() -> None:
    assert [*REWRITES, *STARTS, *CARRIES_ON] != []
    assert STARTS == ["quantize-activations", "dual-precision"]
    assert sorted([*REWRITES, *STARTS, *CARRIES_ON]) == sorted(NAMES)


@pytest.mark.parametrize("model", TOYS)
@pytest.mark.parametrize("name", REWRITES)
def test_every_rewriting_pass_on_every_toy(name: str, model: str) -> None:
    proto = toy(model)
    before = proto.SerializeToString(deterministic=True)
    takes_samples = "calibration" in inspect.signature(function(name)).parameters
    given = {"calibration": toy_calls(model)} if takes_samples else {}
    after = function(name)(proto, **given)
    assert proto.SerializeToString(deterministic=True) == before
    assert after is not proto
    onnx.checker.check_model(after)
    assert_same_outputs(proto, after, rtol=1e-4, feeds=toy_calls(model)[0])


@pytest.mark.parametrize("name", STARTS)
def test_every_starting_pass(name: str) -> None:
    before = RESNET.SerializeToString(deterministic=True)
    planned = function(name)(shipped("digits_resnet"), calibration=CALLS)
    assert isinstance(planned, lpcompile.PlannedModel)
    assert planned.pipeline == name
    assert [r.name for r in planned.reports] == [name]
    assert any(layer.kernel is not Kernel.FLOAT for layer in planned.plan.layers.values())
    function(name)(RESNET, calibration=CALLS)
    assert RESNET.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", CARRIES_ON)
def test_every_further_pass(
    name: str, started: lpcompile.PlannedModel, rounded: lpcompile.PlannedModel
) -> None:
    rounds = "weights-quantized" in {f.value for f in registry.pass_class(name).requires}
    given = rounded if rounds else started
    plan = given.plan
    planned = function(name)(given, **FEW_STEPS.get(name, {}))
    assert given.plan is plan
    assert planned.pipeline.startswith(f"{given.pipeline},{name}")
    whole = planned if rounds or name == "quantize-weights" else lpcompile.passes.quantize_weights(planned)
    assert sqnr_db(RESNET, whole.materialise()) > 8  # 4 bits throughout; noise alone would give 0


def test_passes_one_by_one_are_the_recipe() -> None:
    """The same passes with the same options, called as functions, give the same model."""
    recipe = compiled_network("digits_resnet", "int8")
    model: Any = shipped("digits_resnet")
    planned: Any = None
    pipeline = [p["name"] for p in recipe.report["passes"] if p["name"] in NAMES]
    text = lpcompile.compile(
        shipped("digits_resnet"), calibration=shipped_data("digits_resnet"), recipe="int8"
    ).decisions
    named = registry.split_pipeline(text.split('pipeline = "')[1].split('"')[0])
    assert [n for n, _ in named] == pipeline
    for name, options in named:
        kind, given = kind_of(registry.pass_class(name)), {k.replace("-", "_"): v for k, v in options.items()}
        takes = inspect.signature(function(name)).parameters
        given |= {"calibration": shipped_data("digits_resnet")} if kind is not Kind.CARRIES_ON and "calibration" in takes else {}
        if "followed_by" in takes:
            given["followed_by"] = ",".join(p for p in text.split('pipeline = "')[1].split('"')[0].split(",quantize-act")[1:] and ["quantize-act" + text.split('pipeline = "')[1].split('"')[0].split(",quantize-act")[1]])
        if kind is Kind.REWRITES:
            model = function(name)(model, **given)
        else:
            planned = function(name)(planned if planned is not None else model, **given)
    assert planned.materialise().SerializeToString(deterministic=True) == recipe.model.SerializeToString(
        deterministic=True
    )
