"""Metrics of a compilation's layers: who has one, who has none and why, and who shares."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lpcompile.analysis import grams
from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.grams import Grams, gather_grams
from lpcompile.analysis.product_sums import summing_bytes
from lpcompile.ir.graph import LpGraph
from lpcompile.passes import input_metrics as module
from lpcompile.passes.input_metrics import input_metrics
from lpcompile.plan import Kernel
from lpcompile.quant.damping_choice import DAMPINGS
from lpcompile.quant.gram_factor import DAMPING
from tests.quantizing import NO_COSTS, Quantized, quantized

NO_SAMPLES = "no calibration data, so its inputs are not known"
NET = """m (float[4,6] x) => (float[4,3] y, float[4,3] z, float[4,2] u)
<float[6,3] a, float[3] ab, float[6,3] b, float[3] bb, float[6,3] c, float[3,2] d> {
    y = Gemm (x, a, ab)  z = Gemm (x, b, bb)  t = MatMul (x, c)  r = Relu (t)  u = MatMul (r, d)
}"""
CONV = """m (float[2,4,5,5] x) => (float[2,6,4,4] y) <float[6,2,2,2] w, float[6] b> {
    s = Mul (x, x)  y = Conv <group = 2> (s, w, b)
}"""


def planned(text: str = NET, *, calls: int = 40) -> tuple[Quantized, list[str]]:
    found = quantized(text, NO_COSTS, calls=calls)
    return found, [n.name for n in found.graph.layers()]


def test_layers_that_read_alike_share_one_object() -> None:
    found, (first, second, unbiased, other) = planned()
    metrics = input_metrics(found.graph, found.context, [first, second, unbiased, other])
    assert metrics[first] is metrics[second]
    assert metrics[first].centred
    assert metrics[unbiased] is not metrics[first]  # no bias takes the mean of its errors away
    assert not metrics[unbiased].centred
    assert metrics[other] is not metrics[unbiased]
    assert not found.context.without_metric


@pytest.mark.parametrize("text", [NET, CONV])
def test_it_is_the_covariance_of_what_the_layer_reads(text: str) -> None:
    found, names = planned(text, calls=12)
    metric = input_metrics(found.graph, found.context, names)[names[0]]
    assert found.context.calibration is not None
    calls = [feeds["x"].astype(np.float64) for feeds in found.context.calibration.deciding]
    if text == NET:
        rows, read = [np.concatenate(calls)], "x"
    else:
        s = np.concatenate(calls) ** 2
        windows = np.lib.stride_tricks.sliding_window_view(s, (2, 2), (2, 3)).transpose(1, 0, 2, 3, 4, 5)
        groups = [windows[:2], windows[2:]]  # (channels, N, H, W, 2, 2)
        rows, read = [g.transpose(1, 2, 3, 0, 4, 5).reshape(-1, 8) for g in groups], "s"
    step = found.graph.plan.activations[read].scale
    assert found.graph.plan.layers[names[0]].kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT)
    for g, x in enumerate(rows):
        wanted = np.cov(x.T, bias=True) + step**2 / 12 * np.eye(x.shape[1])
        np.testing.assert_allclose(metric.matrix[g], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metric.mean[g], x.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert metric.damping in DAMPINGS


def test_they_are_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, names = planned()
    before = dict(input_metrics(found.graph, found.context, names[:2]))
    gathered: list[Sequence[str]] = []

    def counted(graph: LpGraph, layers: Sequence[str], *args: Any, **options: Any) -> Grams:
        gathered.append(layers)
        return gather_grams(graph, layers, *args, **options)

    monkeypatch.setattr(module, "gather_grams", counted)
    after = input_metrics(found.graph, found.context, names)
    input_metrics(found.graph, found.context, names)
    assert gathered == [names[2:]]
    assert all(after[n] is before[n] for n in names[:2])


def test_one_call_leaves_the_usual_damping() -> None:
    found, names = planned(calls=1)
    assert {m.damping for m in input_metrics(found.graph, found.context, names).values()} == {DAMPING}


def test_without_samples_there_are_none() -> None:
    found, names = planned(calls=0)
    assert not input_metrics(found.graph, found.context, names)
    assert found.context.without_metric == dict.fromkeys(names, NO_SAMPLES)


def test_generated_samples_tell_nothing_of_channels() -> None:
    found, names = planned(calls=4)
    assert found.context.calibration is not None
    found.context.calibration = Calibration(found.context.calibration.calls, generated=True)
    assert not input_metrics(found.graph, found.context, names)
    assert found.context.without_metric == dict.fromkeys(names, NO_SAMPLES)


def test_a_matrix_that_is_too_large_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found, names = planned()
    monkeypatch.setattr(grams, "MOST_BYTES", summing_bytes(1, 5))
    metrics = input_metrics(found.graph, found.context, names)
    assert set(metrics) == {names[3]}
    assert found.context.without_metric == dict.fromkeys(names[:3], "a matrix of its 6 inputs is too large")


def test_they_follow_the_width_of_the_input() -> None:
    """A range of 4 bits that is chosen later brings its own noise; what was rounded for the old one is let go."""
    found, names = planned()
    ctx, graph = found.context, found.graph
    wide = dict(input_metrics(graph, ctx, names))
    ctx.rounded = {(n, graph.plan.layers[n].weight): graph.plan.layers[n] for n in names}
    plan = graph.plan.activations["x"]
    graph.plan = graph.plan.with_activation(
        "x", replace(plan, format="uint4", scale=plan.scale * 17, zero_point=8)
    )
    narrow = input_metrics(graph, ctx, names)
    added = (17**2 - 1) * plan.scale**2 / 12
    np.testing.assert_allclose(
        narrow[names[0]].matrix, wide[names[0]].matrix + added * np.eye(6), rtol=1e-4, atol=1e-6
    )
    assert narrow[names[3]] is wide[names[3]]  # reads another tensor
    assert {n for n, _ in ctx.rounded} == {names[3]}
