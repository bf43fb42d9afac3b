"""A plan is kept where the rounded network gained on the deciding calls, and undone where it lost."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.plan import QuantPlan
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.records import PassReport
from tests.quantizing import NO_COSTS, Quantized, quantized

NET = """m (float[N,12] x) => (float[N,6] y) <float[12,6] w> { y = MatMul (x, w) }"""


CLASSES = """m (float[N,12] x) => (float[N,6] y) <float[12,6] w> { t = MatMul (x, w)  y = Softmax (t) }"""


@pytest.fixture(scope="module")
def made() -> Quantized:
    return quantized(NET, f"{NO_COSTS},quantize-weights{{format=int4}}", calls=14)


def worse(made: Quantized, share: float) -> QuantPlan:
    """The plan with weights rounded after they were shrunk."""
    (node,) = made.graph.layers()
    plan = made.graph.plan.layers[node.name]
    assert plan.tensor is not None
    assert node.inputs[1] is not None
    rows = np.asarray(node.inputs[1].values.T * np.float32(share), np.float32)
    return made.graph.plan.with_layer(node.name, replace(plan, tensor=nearest_codes(rows, plan.tensor)))


def noise(made: Quantized, plan: QuantPlan, *, centred: bool = False) -> np.ndarray:
    """Of each deciding call, by float64 products of rounded inputs and weights; `centred`: less its mean."""
    (node,) = made.graph.layers()
    tensor = plan.layers[node.name].tensor
    assert tensor is not None
    assert node.inputs[1] is not None
    (range_,) = plan.activations.values()
    weights, rounded = node.inputs[1].values.astype(np.float64), tensor.dequantize().T.astype(np.float64)
    found = []
    for feeds in made.context.calibration.deciding:  # type: ignore[union-attr]
        x = feeds["x"].astype(np.float64)
        low, high = -range_.zero_point, range_.code_max - range_.zero_point
        codes = np.clip(np.rint(feeds["x"] / np.float32(range_.scale)), low, high)
        error = codes * range_.scale @ rounded - x @ weights
        found.append(np.square(error - error.mean(axis=-1, keepdims=True) * centred).sum())
    return np.asarray(found)


@pytest.mark.parametrize("turned", [False, True])
def test_the_better_plan_stays(made: Quantized, turned: bool) -> None:
    good, bad = made.graph.plan, worse(made, 0.7)
    before, after = (good, bad) if turned else (bad, good)
    graph = made.graph.copy()
    graph.plan = after
    report = PassReport("some-pass")
    report.change("MatMul_0", "learned")
    keep_if_better(graph, made.context, before, report)
    a, b = noise(made, before), noise(made, after)
    relative = a / a.mean() - b / b.mean()
    assert report.metrics["gain_db"] == pytest.approx(10 * math.log10(a.mean() / b.mean()), abs=1e-3)
    error = 10 / math.log(10) * relative.std(ddof=1) / math.sqrt(len(a))
    assert report.metrics["gain_error_db"] == pytest.approx(error, rel=1e-3)
    assert report.metrics["gain_calls"] == len(a) == 12
    assert graph.plan is good
    assert bool(report.changes) is not turned
    assert [s.reason.startswith("the network lost ") for s in report.skips] == [True] * turned


def test_behind_a_softmax_the_logits_are_judged() -> None:
    """Less their mean, which a softmax does not see."""
    made = quantized(CLASSES, f"{NO_COSTS},quantize-weights{{format=int4}}", calls=14)
    good, bad = made.graph.plan, worse(made, 0.7)
    graph, report = made.graph.copy(), PassReport("some-pass")
    graph.plan = bad
    keep_if_better(graph, made.context, good, report)
    a, b = (noise(made, plan, centred=True) for plan in (good, bad))
    assert report.metrics["gain_db"] == pytest.approx(10 * math.log10(a.mean() / b.mean()), abs=1e-3)
    assert graph.plan is good


def test_one_call_decides_alone(made: Quantized) -> None:
    graph, report = made.graph.copy(), PassReport("some-pass")
    before, graph.plan = graph.plan, worse(made, 0.7)
    calls = made.context.calibration.calls[:1]  # type: ignore[union-attr]
    keep_if_better(graph, replace(made.context, calibration=Calibration(calls)), before, report)
    assert graph.plan is before
    assert (report.metrics["gain_error_db"], report.metrics["gain_calls"]) == (math.inf, 1)


def test_what_is_not_measured(made: Quantized) -> None:
    """A plan that did not change, and no samples."""
    for ctx, before in (
        (made.context, made.graph.plan),
        (replace(made.context, calibration=None), QuantPlan()),
    ):
        report = PassReport("some-pass")
        keep_if_better(made.graph, ctx, before, report)
        assert not report.metrics
        assert not report.skips
