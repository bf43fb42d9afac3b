"""The graph that gradients are taken of: floats, with the planned activations rounded."""

import numpy as np
import pytest

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.materialise.qdq import fake_quantised
from lpcompile.quant.rows import from_rows
from tests.networks import toy, toy_calls
from tests.quantizing import Quantized, quantized
from tests.support import random_feeds, run_model

CNN = """m (float[N,3,8,8] x) => (float[N,5] y, float[N,6,8,8] r)
<float[6,3,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2, float[6,5] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    s = Add (c, r)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    y = Gemm (f, w3, b3)
}"""


def with_rounded_weights(found: Quantized) -> LpGraph:
    graph = fake_quantised(found.graph)
    for node in graph.layers():
        plan, weight = found.graph.plan.layers[node.name], node.inputs[1]
        assert plan.tensor is not None
        assert weight is not None
        rounded = from_rows(node.op, plan.tensor.dequantize(), weight.dims)
        graph.set_weights(node, rounded, None)
    return graph


@pytest.mark.parametrize("levels", ["uint8", "uint4"])
def test_with_rounded_weights_it_computes_what_the_compiled_graph_does(levels: str) -> None:
    found = quantized(
        CNN, f"quantize-activations{{cost=none,format={levels}}},quantize-weights{{format=fixp4}}"
    )
    feeds = random_feeds(found.original, seed=3)
    wanted = run_model(found.emitted(), feeds)
    given = run_model(with_rounded_weights(found).to_proto(), feeds)
    steps = {k: found.graph.plan.activations[k].scale for k in ("r",)}
    assert list(given) == list(wanted)
    assert np.abs(given["r"] - wanted["r"]).max() <= 1.01 * steps["r"], "one step, at ties"
    np.testing.assert_allclose(given["y"], wanted["y"], atol=0.05 * np.abs(wanted["y"]).max())


def test_4_bit_ranges_are_clips_and_the_graph_itself_is_left_alone() -> None:
    found = quantized(CNN, "quantize-activations{cost=none,format=uint4},quantize-weights{format=fixp4}")
    before = found.graph.to_proto().SerializeToString(deterministic=True)
    graph = fake_quantised(found.graph)
    assert found.graph.to_proto().SerializeToString(deterministic=True) == before
    pairs = graph.nodes("QuantizeLinear")
    assert len(pairs) == len(found.graph.plan.activations)
    assert not graph.nodes("Min")
    clipped = [p for p in found.graph.plan.activations.values() if p.code_max < 255]
    assert clipped
    assert len(graph.nodes("Clip")) == len(clipped), "8-bit pairs know their range"


@pytest.mark.thorough
def test_a_product_that_its_bias_takes_in_is_held_nowhere() -> None:
    """Where machines add biases to sums of products, the product has no plan: retraining for them once asked for it."""
    compiled = lpcompile.compile(
        toy("matmul_bias"), target="cim", calibration=toy_calls("matmul_bias"), recipe="mixed-posit-tuned",
        tuning={"epochs": "1"},
    )  # fmt: skip
    (layer,) = (row for row in compiled.report["layers"] if row["name"] == "MatMul_0")
    assert not layer["weight_format"].startswith("float")
    (tuned,) = (r for r in compiled.report["passes"] if r["name"] == "tune-weights")
    assert tuned["metrics"]["epochs"] == 1
    assert tuned["metrics"]["loss_train_001"] < tuned["metrics"]["loss_train_before"]
