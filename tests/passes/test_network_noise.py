"""One run of a rounded network tells the noise of its outputs and of the logits behind them, as judges apart would."""

from dataclasses import replace

import numpy as np

from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.runtime.execution import observer
from tests.quantizing import NO_COSTS, quantized

NET = """m (float[N,12] x) => (float[N,6] y) <float[12,6] w> { z = MatMul (x, w)
    y = Softmax (z) }"""


def test_outputs_and_logits_are_judged_from_one_run_of_each_plan() -> None:
    made = quantized(NET, f"{NO_COSTS},quantize-weights{{format=int4}}", calls=14)
    opened: list[list[str]] = []

    def observe(graph, tensors):  # type: ignore[no-untyped-def]
        opened.append(list(tensors))
        return observer(graph, tensors)

    measure = NetworkNoise(made.graph, replace(made.context, observe=observe))
    plan = made.graph.plan
    assert made.context.calibration is not None
    calls = made.context.calibration.deciding
    logits = made.graph.nodes("MatMul")[0].outputs[0]
    assert logits is not None
    for name, is_logits, found in (
        ("y", False, measure.of_outputs(plan)),
        (logits.name, True, measure.of_logits(plan)),
    ):
        judge = Judge(observer(made.graph, [name]), calls, [name], per_sample=False, logits=is_logits)
        alone = judge.noise_terms(observer(rounded_network(made.graph, plan), [name]))
        np.testing.assert_array_equal(found, alone)
        assert found.shape == (len(calls),)
    assert not np.array_equal(measure.of_outputs(plan), measure.of_logits(plan))
    assert opened == [["y", logits.name]] * 2  # the float network and the rounded one
