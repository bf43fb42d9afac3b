"""Metrics of rounding follow the width of the activation that a layer reads, and so does what was rounded by them."""

from dataclasses import replace

import numpy as np

from lpcompile.passes.input_metrics import forget_outdated, input_metrics
from lpcompile.plan import LayerPlan, WeightPlan
from tests.quantizing import NO_COSTS, quantized

NET = """m (float[N,8] x) => (float[N,4] y) <float[8,8] w, float[8,4] v> {
    h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }"""


def test_a_metric_of_another_step_is_gathered_anew() -> None:
    made = quantized(NET, NO_COSTS, calls=16)
    graph, ctx = made.graph, made.context
    first, second = (n.name for n in graph.layers())
    before = dict(input_metrics(graph, ctx, [first, second]))
    ctx.rounded.update({(n, WeightPlan("int4")): LayerPlan() for n in (first, second)})
    forget_outdated(graph, ctx, [first, second])
    assert set(ctx.metrics) == {first, second}  # nothing changed
    plan = graph.plan.activations["x"]
    graph.plan = graph.plan.with_activation(
        "x", replace(plan, format="uint4", scale=plan.scale * 16, zero_point=8)
    )
    forget_outdated(graph, ctx, [first, second])
    assert set(ctx.metrics) == {second}
    assert {name for name, _ in ctx.rounded} == {second}
    again = input_metrics(graph, ctx, [first, second])
    assert again[second] is before[second]
    noise = np.diagonal(again[first].matrix - before[first].matrix, axis1=1, axis2=2)
    np.testing.assert_allclose(noise, 255 * plan.scale**2 / 12, rtol=1e-2)  # 16^2 - 1 times what it was
