"""A rounded network is run once for each plan, and judged where plans are told apart, as a judge alone would."""

from dataclasses import replace

import numpy as np

from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.runtime.execution import observer
from tests.quantizing import NO_COSTS, quantized

NET = """m (float[N,12] x) => (float[N,6] y) <float[12,6] w> { z = MatMul (x, w)
    y = Softmax (z) }"""


def test_every_plan_is_run_once_and_judged_at_the_logits() -> None:
    made = quantized(NET, f"{NO_COSTS},quantize-weights{{format=int4}}", calls=14)
    opened: list[list[str]] = []

    def observe(graph, tensors):  # type: ignore[no-untyped-def]
        opened.append(list(tensors))
        return observer(graph, tensors)

    measure = NetworkNoise(made.graph, replace(made.context, observe=observe))
    plan = made.graph.plan
    assert made.context.calibration is not None
    calls = made.context.calibration.deciding
    (logits,) = [v.name for v in made.graph.nodes("MatMul")[0].outputs if v is not None]
    judge = Judge(observer(made.graph, [logits]), calls, [logits], per_sample=False, logits=True)
    alone = judge.noise_terms(observer(rounded_network(made.graph, plan), [logits]))
    np.testing.assert_array_equal(measure.of(plan), alone)
    assert measure.of(plan).shape == (len(calls),)
    assert opened == [[logits]] * 2  # the float network and the rounded one
    other = made.graph.plan.without({"nobody"}, "another plan")
    np.testing.assert_array_equal(measure.of(other), alone)
    assert len(opened) == 3
