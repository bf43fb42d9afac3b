"""Every registered pass as a function: on models, with its options, documented, and typed."""

import dataclasses
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile import pass_functions, registry
from lpcompile.errors import (
    BudgetError,
    DecisionsError,
    InputError,
    LpcompileError,
    PassOptionError,
    PipelineError,
)
from lpcompile.pass_stub import stub
from lpcompile.pipeline import Kind, kind_of, pipeline_text
from lpcompile.plan import Kernel
from lpcompile.records import PassReport
from lpcompile.runtime.compare import compare
from tests.networks import TOYS, compiled_network, shipped, shipped_data, toy, toy_calls
from tests.support import assert_same_outputs, run_model

NAMES = list(registry.PASSES)
REWRITES = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.REWRITES]
STARTS = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.STARTS]
CARRIES_ON = [n for n in NAMES if kind_of(registry.pass_class(n)) is Kind.CARRIES_ON]
FEW_STEPS: dict[str, dict[str, Any]] = {  # enough to see that it works
    "assign-formats": {
        "avg_bits": 5.0,
        "joint": 0,
        "formats": "fixp4+int8",
        "rounding": "nearest",
        "samples": 16,
    },
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
    assert STARTS == ["quantize-activations", "dual-precision"]
    assert sorted([*REWRITES, *STARTS, *CARRIES_ON]) == sorted(NAMES)


@pytest.mark.sweep
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


@pytest.mark.thorough
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


@pytest.mark.sweep
@pytest.mark.parametrize("name", CARRIES_ON)
def test_every_further_pass(
    name: str, started: lpcompile.PlannedModel, rounded: lpcompile.PlannedModel
) -> None:
    rounds = "weights-quantized" in {f.value for f in registry.pass_class(name).requires}
    given = rounded if rounds else started
    if name == "run-on-integers":  # takes up what dual-precision rounded
        given = lpcompile.passes.dual_precision(shipped("digits_resnet"), calibration=CALLS)
    plan = given.plan
    planned = function(name)(given, **FEW_STEPS.get(name, {}))
    assert given.plan is plan
    assert planned.pipeline.startswith(f"{given.pipeline},{name}")
    whole = planned if rounds or name == "quantize-weights" else lpcompile.passes.quantize_weights(planned)
    assert sqnr_db(RESNET, whole.materialise()) > 8  # 4 bits throughout; noise alone would give 0


@pytest.mark.parametrize("recipe", ["int8", pytest.param("w4a4", marks=pytest.mark.slow)])
def test_passes_one_by_one_are_the_recipe(recipe: str, tmp_path: Path) -> None:
    """The same passes with the same options, called as functions, give the same model, verified and written too."""
    whole = compiled_network("digits_resnet", recipe)
    data = shipped_data("digits_resnet")
    (text,) = re.findall('^pipeline = "(.*)"$', whole.decisions, re.MULTILINE)
    passes = [registry.pass_class(n).configured(options) for n, options in registry.split_pipeline(text)]
    model: Any = shipped("digits_resnet")
    for i, done in enumerate(passes):
        takes = inspect.signature(function(done.name)).parameters
        given = {f.name: getattr(done, f.name) for f in dataclasses.fields(done)}
        if kind_of(type(done)) is not Kind.CARRIES_ON and "calibration" in takes:
            given["calibration"] = data
        if "followed_by" in takes and i + 1 < len(passes):
            given["followed_by"] = pipeline_text(passes[i + 1 :])
        model = function(done.name)(model, **given)
    wanted = whole.model.SerializeToString(deterministic=True)
    assert model.materialise().SerializeToString(deterministic=True) == wanted
    out = tmp_path / "out"
    written = lpcompile.compile(model, output=out)
    assert written.model.SerializeToString(deterministic=True) == wanted
    assert onnx.load(out / "model.onnx") == whole.model
    found, same = written.report["quality"], whole.report["quality"]
    assert found["sqnr_db_output"] == pytest.approx(
        same["sqnr_db_output"], rel=1e-4
    )  # against the folded model
    assert written.report["layers"] == whole.report["layers"]
    names = [p["name"] for p in written.report["passes"]]
    assert names == [
        p["name"] for p in whole.report["passes"] if kind_of_name(p["name"]) is not Kind.REWRITES
    ]


def kind_of_name(name: str) -> Kind | None:
    return kind_of(registry.pass_class(name)) if name in NAMES else None


@pytest.mark.thorough
def test_decisions_of_functions_replay(rounded: lpcompile.PlannedModel, tmp_path: Path) -> None:
    planned = lpcompile.passes.correct_bias(rounded)
    (tmp_path / "decisions.toml").write_text(planned.decisions)
    again = lpcompile.compile(planned.source, calibration=CALLS, decisions=tmp_path / "decisions.toml")
    assert again.report["warnings"] == list(planned.warnings)
    assert again.model == planned.materialise()
    replayed = lpcompile.passes.quantize_activations(
        planned.source, calibration=CALLS, format="uint4", ends="uint8", decisions=tmp_path / "decisions.toml"
    )
    whole = lpcompile.passes.correct_bias(lpcompile.passes.quantize_weights(replayed))
    assert whole.materialise() == planned.materialise()


def test_reports_and_progress_are_told(started: lpcompile.PlannedModel) -> None:
    told: list[PassReport] = []
    steps: list[lpcompile.Step] = []
    lpcompile.passes.fold_batchnorm(RESNET, report=told.append)
    lpcompile.passes.quantize_weights(started, report=told.append, progress=steps.append)
    assert [r.name for r in told] == ["fold-batchnorm", "quantize-weights"]
    norms = {n.name for n in RESNET.graph.node if n.op_type == "BatchNormalization"}
    assert {c.node for c in told[0].changes} | {c.node for c in told[0].skips} == norms
    assert (steps[0].pass_name, steps[0].total) == ("quantize-weights", 0)
    assert (steps[-1].pass_name, steps[-1].what) == ("quantize-weights", "rounding weights")
    assert steps[-1].done == steps[-1].total == len(started.plan.layers)


def test_followed_by_tells_what_comes_later() -> None:
    """Sums keep their bits only where layers will read fewer."""
    folded = lpcompile.passes.fold_batchnorm(RESNET)
    said: list[PassReport] = []
    lpcompile.passes.widen_sums(folded, report=said.append)
    lpcompile.passes.widen_sums(folded, report=said.append, followed_by="quantize-activations{format=uint4}")
    assert not said[0].changes
    assert said[1].changes


@pytest.mark.thorough
def test_labels_come_with_retraining(rounded: lpcompile.PlannedModel) -> None:
    with pytest.raises(LpcompileError, match="label"):
        lpcompile.passes.tune_weights(rounded, loss="cross-entropy", labels="y", epochs=1)
    labels = np.zeros(8, np.int64)
    tuned = lpcompile.passes.tune_weights(
        rounded, loss="cross-entropy", labels="y", epochs=1, calibration=[{**c, "y": labels} for c in CALLS]
    )
    assert tuned.plan != rounded.plan


@pytest.mark.thorough
def test_cim_without_samples_generates_them() -> None:
    folded = lpcompile.passes.fold_batchnorm(lpcompile.passes.canonicalize(RESNET))
    planned = lpcompile.passes.quantize_activations(folded, target="cim")
    planned = lpcompile.passes.quantize_weights(planned)
    assert "generated" in planned.warnings[0]
    made = lpcompile.compile(planned, target="cim")
    assert "program.lpcim" in made.files
    assert made.report["verification"]["bit_exact_sim"] is True


@pytest.mark.thorough
def test_fp8_form_of_functions() -> None:
    planned = lpcompile.passes.dual_precision(
        lpcompile.passes.fold_batchnorm(RESNET), calibration=CALLS, order="natural", rule="nearest"
    )
    written = planned.materialise(emit="fp8-qdq")
    assert {v.domain: v.version for v in written.opset_import}[""] >= 21
    ours, theirs = (run_model(m, FRESH)["logits"] for m in (planned.materialise(), written))
    differ = (ours != theirs).any(axis=1)  # sums of floats in another order may round to the next FP8 number
    assert differ.mean() < 0.01
    assert (ours.argmax(1) == theirs.argmax(1)).all()


ERRORS: list[tuple[Any, type[LpcompileError], str, str]] = [
    (lambda p, _: p.fold_constants(RESNET, growth=0), PassOptionError, "has no option 'growth'", "growth_bytes"),
    (lambda p, _: p.fold_constants(RESNET, growth_bytes="x"), PassOptionError, "takes a int, not 'x'", "65536"),
    (lambda p, x: p.quantize_weights(x, rounding="up"), PassOptionError, "one of nearest", "lpcompile passes"),
    (lambda p, _: p.quantize_weights(RESNET), PipelineError, "carries on a plan, not a ModelProto", "quantize_act"),
    (lambda p, x: p.quantize_activations(x), PipelineError, "there is one already", "float model"),
    (lambda p, x: p.fold_constants(x), PipelineError, "a plan for it exists already", "float model first"),
    (lambda p, x: p.correct_bias(x), PipelineError, "requires 'weights-quantized'", "quantize-weights"),
    (lambda _, x: x.materialise(), PipelineError, "layers are planned and not rounded", "quantize_weights first"),
    (lambda p, _: p.quantize_activations(b"no model"), InputError, "", ""),
    (lambda p, _: p.quantize_activations("none.onnx"), InputError, "there is no such file", ""),
    (lambda p, _: p.quantize_activations(RESNET, keep_float=["x"]), InputError, "there is no node 'x'", ""),
    (lambda p, _: p.quantize_activations(RESNET, decisions="no"), DecisionsError, "cannot read", "path"),
    (lambda p, _: p.quantize_activations(RESNET, machine="isaac-ce"), PipelineError, "no option 'machine'", "cim"),
    (lambda p, _: p.equalize(RESNET, calibration=CALLS, followed_by="x"), PipelineError, "no pass is called 'x'", ""),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message", "hint"), ERRORS)
def test_errors_name_the_mend(
    call: Any, error: type[LpcompileError], message: str, hint: str, started: lpcompile.PlannedModel
) -> None:
    with pytest.raises(error) as caught:
        call(lpcompile.passes, started)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration": CALLS}, "comes with the samples"),
        ({"target": "cim"}, "made for target 'ort', not 'cim'"),
        ({"recipe": "int8"}, "option 'recipe' decides"),
        ({"weight_format": "nf4"}, "option 'weight_format' decides"),
        ({"emit": "fp8-qdq"}, "none is planned"),
    ],
)
def test_options_that_would_decide_are_refused(
    given: dict[str, Any], message: str, rounded: lpcompile.PlannedModel
) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        lpcompile.compile(rounded, **given)
    assert caught.value.hint


def test_other_options_hold(rounded: lpcompile.PlannedModel) -> None:
    made = lpcompile.compile(rounded, emit="qdq")
    assert {n.domain for n in made.model.graph.node} == {""}
    with pytest.raises(BudgetError, match="avg-bits is"):
        lpcompile.compile(rounded, budget={"avg-bits": 2})


@pytest.mark.parametrize("name", NAMES)
def test_help_says_all(name: str) -> None:
    made, cls = function(name), registry.pass_class(name)
    assert made.__name__ == name.replace("-", "_")
    shown = pydoc.plain(pydoc.render_doc(made))
    parameters = inspect.signature(made).parameters
    assert set(cls.options()) == {n.replace("_", "-") for n in parameters} & set(cls.options())
    assert len(set(parameters)) == 1 + len(cls.options()) + len(pass_functions.arguments_of(cls))
    for word in (*parameters, "Returns:", "Raises:"):
        assert word in shown
    assert (cls.__doc__ or "").splitlines()[0] in shown


def test_the_stub_is_what_the_registry_says() -> None:
    """`python -m lpcompile.pass_stub > passes/__init__.pyi` brings it up to date."""
    assert (Path(lpcompile.passes.__path__[0]) / "__init__.pyi").read_text("utf-8") == stub()


@pytest.mark.thorough
def test_functions_and_modules_of_one_name() -> None:
    """Whatever was imported before, the attribute is the function, and the module is found by its name."""
    code = """
import sys, lpcompile.passes
assert "onnx" not in sys.modules
from lpcompile.passes.fold_batchnorm import FoldBatchnorm
from lpcompile.passes import fold_batchnorm
import importlib
assert callable(lpcompile.passes.fold_batchnorm) and fold_batchnorm is lpcompile.passes.fold_batchnorm
assert importlib.import_module("lpcompile.passes.fold_batchnorm").FoldBatchnorm is FoldBatchnorm
assert "equalize" in dir(lpcompile.passes)
assert not hasattr(lpcompile.passes, "fold_nothing")
from lpcompile.passes import retraining
assert retraining.__name__ == "lpcompile.passes.retraining"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
