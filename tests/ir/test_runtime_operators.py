"""Norms that ONNX Runtime has in the domain of ONNX: they pass every door that operators of ONNX pass."""

import numpy as np
import pytest

import lpcompile
from lpcompile.accounts.graphs import float_account
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from lpcompile.runtime.compare import compare
from tests.support import assert_same_outputs, parse_model, run_model

NORMS = {
    "LayerNormalization": "LayerNormalization <axis = -1, epsilon = 0.01> (h, g, b)",
    "SimplifiedLayerNormalization": "SimplifiedLayerNormalization <axis = -1, epsilon = 0.01> (h, g)",
}


def network(norm: str, opset: int = 13) -> LpGraph:
    text = f"""m (float[N,6,16] x) => (float[] y) <float[16,32] w, float[32] g, float[32] b, float[32,8] v> {{
        h = MatMul (x, w)  n = {NORMS[norm]}  y = MatMul (n, v) }}"""
    return LpGraph.from_proto(parse_model(text, opset=opset, check=False))


@pytest.mark.parametrize("norm", NORMS)
def test_they_are_sound_and_give_the_shape_that_they_read(norm: str) -> None:
    graph = network(norm)
    verify_graph(graph)
    graph.infer_shapes()
    assert graph.value("n").shape == ("N", 6, 32)
    assert graph.value("y").shape == ("N", 6, 8)


@pytest.mark.parametrize("norm", NORMS)
def test_an_opset_is_raised_over_them(norm: str) -> None:
    graph = network(norm)
    before = graph.to_proto()
    assert graph.raise_opset(21) is None
    assert graph.opset == 21
    assert_same_outputs(before, graph.to_proto(), 1e-6, feeds={"x": np.ones((2, 6, 16), np.float32)})


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_a_network_with_them_is_quantised(norm: str, recipe: str) -> None:
    model = network(norm).to_proto()
    rng = np.random.default_rng(0)
    calls = [{"x": rng.standard_normal((2, 6, 16)).astype(np.float32)} for _ in range(9)]
    made = lpcompile.compile(model, calibration=calls[:-1], recipe=recipe)
    assert len(made.report["layers"]) == 2
    assert not made.report["cost"]["uncounted"]["before"]
    assert not any("gradient" in w for w in made.report["warnings"])
    found = compare([(run_model(model, calls[-1]), run_model(made.model, calls[-1]))]).sqnr_db
    assert found is not None
    assert found > (30 if recipe == "int8" else 15)


def test_one_without_centring_costs_what_an_rms_norm_does() -> None:
    def work(norm: str, opset: int) -> object:
        graph = network("SimplifiedLayerNormalization", opset)
        text = graph.to_proto()
        for node in text.graph.node:
            node.op_type = norm if node.op_type == "SimplifiedLayerNormalization" else node.op_type
        found = LpGraph.from_proto(text)
        found.infer_shapes({"x": (2, 6, 16)})
        return [(e.work, e.ace, e.bytes) for e in float_account(found).entries]

    assert work("SimplifiedLayerNormalization", 23) == work("RMSNormalization", 23)
