"""`search-ranges`: it fires and pays, a second run changes nothing, each reason to leave ranges alone is reached."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.gain import Gain
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.planned_groups import planned_groups
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.analysis.stored_weights import with_stored_weights
from lpcompile.errors import PassOptionError
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.plan import ActivationPlan
from lpcompile.quant.accumulators import BIAS_UNITS
from lpcompile.registry import pass_class
from tests.quantizing import RESIDUAL, Quantized, quantized, same_plan
from tests.support import random_feeds

search_ranges = import_module("lpcompile.passes.search_ranges")  # the function has its name

NARROW = "quantize-activations{cost=none,format=uint4,rule=minmax}"
WEIGHTS = "quantize-weights{format=fixp4,scale-format=ufloat8_e4m4},correct-bias"
SEARCH = "search-ranges{runs=40}"


def noise(found: Quantized, plans: dict[str, ActivationPlan], seeds: range) -> float:
    """Output noise on samples, activations rounded as planned."""
    context, graph = found.context, found.graph
    assert context.observe is not None
    calls = [random_feeds(found.original, seed=i) for i in seeds]
    judge = Judge(context.observe(graph, ["y"]), calls, ["y"], per_sample=False)
    rounded = with_rounded_activations(with_stored_weights(graph), plans)
    return float(judge.noise_terms(context.observe(rounded, ["y"])).mean())


@pytest.mark.thorough
@pytest.mark.parametrize("before", [NARROW, f"{NARROW},{WEIGHTS}"])
def test_ranges_that_were_too_wide_are_found_and_pay_on_other_samples(before: str) -> None:
    found = quantized(RESIDUAL, before)
    old = dict(found.graph.plan.activations)
    report = found.rerun(SEARCH)["search-ranges"]
    new = dict(found.graph.plan.activations)
    assert report.changes
    assert report.metrics["cross_validated_gain_db"] > 0
    assert report.metrics["output_sqnr_after_db"] > report.metrics["output_sqnr_before_db"]
    assert {p.rule for p in new.values()} == {"output"}
    assert noise(found, new, range(500, 560)) < 0.9 * noise(found, old, range(500, 560))
    for name, plan in new.items():
        assert plan == new[plan.tie_group]
        assert plan.format == old[name].format


@pytest.mark.thorough
def test_what_is_reported_is_what_a_run_of_its_own_measures() -> None:
    found = quantized(RESIDUAL, f"{NARROW},{WEIGHTS}")
    old = dict(found.graph.plan.activations)
    metrics = found.rerun(SEARCH)["search-ranges"].metrics
    calls = found.context.calibration
    assert calls is not None
    context = found.context
    assert context.observe is not None
    judge = Judge(context.observe(found.graph, ["y"]), calls.deciding, ["y"], per_sample=True)
    for plans, key in ((old, "before"), (found.graph.plan.activations, "after")):
        rounded = with_rounded_activations(with_stored_weights(found.graph), plans)
        level = judge.noise_terms(context.observe(rounded, ["y"])).mean()
        # a mean over halves, each with the signal power of its own
        assert metrics[f"output_sqnr_{key}_db"] == pytest.approx(-10 * np.log10(level), abs=0.3)


@pytest.mark.thorough
@pytest.mark.parametrize("before", [NARROW, "quantize-activations{cost=none}"])
def test_a_second_run_changes_nothing(before: str) -> None:
    found = quantized(RESIDUAL, f"{before},{SEARCH}")
    first = found.graph.copy()
    report = found.rerun(SEARCH)["search-ranges"]
    assert not report.changes
    assert same_plan(first, found.graph)


@pytest.mark.thorough
def test_the_same_seed_finds_the_same() -> None:
    one, other = (quantized(RESIDUAL, f"{NARROW},{SEARCH}") for _ in range(2))
    assert same_plan(one.graph, other.graph)


@pytest.mark.thorough
def test_ranges_that_do_not_win_elsewhere_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_ranges, "cross_validated", lambda *_: (Gain(-0.1, 0.2), []))
    found = quantized(RESIDUAL, NARROW)
    before = found.graph.copy()
    report = found.rerun(SEARCH)["search-ranges"]
    assert same_plan(before, found.graph)
    assert {s.reason for s in report.skips} == {
        "kept by rule minmax: all ranges together gain -0.10 dB (standard error 0.20) on other samples"
    }


def skipped(found: Quantized) -> set[str]:
    before = found.graph.copy()
    report = found.rerun(SEARCH)["search-ranges"]
    assert same_plan(before, found.graph)
    assert not report.changes
    return {s.reason for s in report.skips}


def test_without_samples_ranges_stay() -> None:
    found = quantized(RESIDUAL, NARROW)
    found.context.calibration = None
    assert skipped(found) == {"no samples to measure outputs on"}


def test_generated_samples_do_not_count() -> None:
    found = quantized(RESIDUAL, NARROW)
    assert found.context.calibration is not None
    found.context.calibration = replace(found.context.calibration, generated=True)
    assert skipped(found) == {"no samples to measure outputs on"}


def test_a_few_samples_are_too_few() -> None:
    found = quantized(RESIDUAL, NARROW)
    found.context.calibration = Calibration(
        [{"x": random_feeds(found.original, seed=i)["x"][:1]} for i in range(3)]
    )
    assert skipped(found) == {"3 samples are too few for two halves"}


def test_statistics_must_be_there() -> None:
    found = quantized(RESIDUAL, NARROW)
    found.context.statistics = {}
    assert skipped(found) == {"its values were not gathered"}


def test_given_decisions_stay() -> None:
    found = quantized(RESIDUAL, NARROW)
    found.context.decisions = found.graph.plan
    assert skipped(found) == {"as decided in the file"}


def test_outputs_of_no_floats_tell_nothing() -> None:
    text = RESIDUAL.replace("float[N,5] y", "int64[2] k").replace("w4, b4)\n", "w4, b4)  k = Shape (y)\n")
    assert skipped(quantized(text, NARROW, graph_passes="fold-batchnorm")) == {"no output is made of floats"}


def test_ranges_measured_at_run_time_are_named() -> None:
    found = quantized(
        "m (float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul (x, w) }",
        "quantize-activations{matmul=dynamic}",
    )
    assert skipped(found) == {"its range is measured at run time"}


def test_an_operator_without_a_gradient_is_measured() -> None:
    text = RESIDUAL.replace(
        "y = Gemm <transB = 1> (f, w4, b4)", "z = Gemm <transB = 1> (f, w4, b4)  q = Reshape (z, k)"
    )
    text = text.replace("(z, k)", "(z, k)  y = Det (q)").replace("(float[N,5] y)", "(float[N] y)")
    text = text.replace("float[5,8] w4, float[5] b4", "float[4,8] w4, float[4] b4, int64[3] k = {-1, 2, 2}")
    found = quantized(text, NARROW)
    report = found.rerun(SEARCH)["search-ranges"]
    assert "Det" in found.context.warnings[-1]
    assert found.context.warnings[-1].startswith("ranges are searched by measuring alone")
    assert report.changes


def test_biases_of_rounded_weights_still_fit() -> None:
    found = quantized(RESIDUAL, f"{NARROW},{WEIGHTS}")
    group = next(g for g in planned_groups(found.graph) if "s" in g.members)
    node = next(
        n for n in found.graph.layers() if n.inputs[0] is not None and n.inputs[0].name in group.members
    )
    layer = found.graph.plan.layers[node.name]
    assert layer.tensor is not None
    bias = planned_bias(node, layer)
    assert bias is not None
    least = search_ranges._least_scale(found.graph, group)
    units = np.abs(bias) / (least * layer.tensor.int8_image()[1].reshape(-1).astype(np.float64))
    assert units.max() == pytest.approx(BIAS_UNITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kl"}, "option 'loss' is one of logits, probe, not 'kl'"),
        ({"runs": "1"}, "option 'samples' is at least 4, 'runs' at least 3"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(PassOptionError, match=message):
        pass_class("search-ranges").configured(options)


def test_without_static_ranges_there_is_nothing_to_search() -> None:
    found = quantized(RESIDUAL, NARROW, calls=0)
    report = found.rerun(SEARCH)["search-ranges"]
    assert not report.changes
    assert {s.reason for s in report.skips} == {"its range is measured at run time"}  # of the Gemm
