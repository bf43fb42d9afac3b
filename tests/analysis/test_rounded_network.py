"""The rounded float network against the codes of the plan, and against what the emitted model computes."""

import numpy as np
import pytest

from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.plan import Kernel
from lpcompile.quant.rows import to_rows
from lpcompile.quant.unit_rows import row_steps
from lpcompile.runtime.execution import observer
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import random_feeds, run_model

ALL = f"{NO_COSTS},quantize-weights{{format=fixp4}},correct-bias"
CONV = """m (float[2,3,6,6] x) => (float[2,4,4,4] y) <float[4,3,3,3] w, float[4] b> {
    c = Conv (x, w, b)  y = Relu (c)
}"""
DEPTHWISE = "m (float[2,3,6,6] x) => (float[2,6,4,4] y) <float[6,1,3,3] w> { y = Conv <group = 3> (x, w) }"
GEMM = "m (float[5,9] x) => (float[5,4] y) <float[9,4] w, float[4] b> { y = Gemm (x, w, b) }"
MATMUL = "m (float[2,5,9] x) => (float[2,5,4] y) <float[9,4] w> { y = MatMul (x, w) }"
DEEP = """m (float[2,3,6,6] x) => (float[2,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[5,8,1,1] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    d = Conv <group = 8, pads = [1, 1, 1, 1]> (r, w2)  s = Relu (d)
    t = Add (r, s)
    p = GlobalAveragePool (t)  c = Conv (p, w3, b3)  y = Flatten (c)
}"""


def outputs(found: Quantized, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the rounded network, and of the emitted model."""
    feeds = random_feeds(found.original, seed=seed)
    rounded = observer(rounded_network(found.graph, found.graph.plan), ["y"])(feeds)["y"]
    return rounded, run_model(found.emitted(), feeds)["y"]


@pytest.mark.parametrize("text", [CONV, DEPTHWISE, GEMM, MATMUL])
def test_one_layer_gives_what_the_emitted_model_gives(text: str) -> None:
    found = quantized(text, ALL, calls=8)
    (layer,) = found.layers.values()
    assert layer.kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT)
    assert layer.tensor is not None
    plans = found.graph.plan.activations
    unit = plans["x"].scale * float(row_steps(layer.tensor).max())  # biases are whole numbers of it
    for seed in range(100, 104):
        rounded, emitted = outputs(found, seed)
        allowed = 0.5 * unit + 1e-5 * float(np.abs(emitted).max())
        if layer.kernel is Kernel.INTEGER:
            rounded = np.clip(rounded, plans["y"].low, plans["y"].high)  # a graph output reads floats
            allowed += 0.5 * plans["y"].scale
        np.testing.assert_allclose(rounded, emitted, rtol=0, atol=allowed)


def test_several_layers_differ_by_ties_only() -> None:
    found = quantized(DEEP, ALL, calls=8)
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.INTEGER}
    step = max(p.scale for p in found.graph.plan.activations.values())
    for seed in range(100, 104):
        rounded, emitted = outputs(found, seed)
        original = run_model(found.original, random_feeds(found.original, seed=seed))["y"]
        np.testing.assert_allclose(rounded, emitted, rtol=0, atol=step)
        assert np.square(rounded - emitted).mean() < 0.05 * np.square(emitted - original).mean()


@pytest.mark.parametrize("text", [DEEP, GEMM, MATMUL])
def test_weights_and_biases_are_those_of_the_plan(text: str) -> None:
    found = quantized(text, ALL, calls=4)
    before = found.graph.to_proto().SerializeToString()
    made = rounded_network(found.graph, found.graph.plan)
    for name, layer in found.layers.items():
        node, original = made.node(name), found.graph.node(name)
        weight = node.inputs[1]
        assert weight is not None
        assert layer.tensor is not None
        np.testing.assert_array_equal(to_rows(node.op, weight.values), layer.tensor.dequantize())
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        wanted = planned_bias(original, layer)
        assert (bias is None) == (wanted is None)
        if bias is not None and wanted is not None:
            np.testing.assert_array_equal(bias.values, wanted)
    assert found.graph.to_proto().SerializeToString() == before


def test_an_empty_plan_is_the_float_network() -> None:
    found = quantized(DEEP, "", graph_passes="canonicalize")
    feeds = random_feeds(found.original, seed=3)
    made = observer(rounded_network(found.graph, found.graph.plan), ["y"])(feeds)["y"]
    np.testing.assert_allclose(made, run_model(found.original, feeds)["y"], rtol=1e-5, atol=1e-6)
