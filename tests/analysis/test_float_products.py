"""W x of layers, from their outputs or from their inputs, against products in float64."""

import numpy as np
import pytest

from lpcompile.analysis.float_products import float_products, output_reading
from lpcompile.analysis.layer_inputs import input_reading
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, run_model

POSITIONS = np.array([1, 2, 5, 7, 11])
NETWORKS = {  # name -> text, tensors that are read
    "as many outputs as inputs": (
        "m (float[4,3,5] x) => (float[4,3,2] y, float[4,3,3] z) <float[5,2] v, float[5,3] w> "
        "{ y = MatMul (x, v) z = MatMul (x, w) }",
        ["y", "z"],
    ),
    "more outputs than inputs": (
        "m (float[4,3,5] x) => (float[4,3,2] y, float[4,3,4] z) <float[5,2] v, float[5,4] w> "
        "{ y = MatMul (x, v) z = MatMul (x, w) }",
        ["x"],
    ),
    "a bias": ("m (float[12,5] x) => (float[12,4] y) <float[5,4] v, float[4] b> { y = Gemm (x, v, b) }", ["y"]),
    "a bias for all": ("m (float[12,5] x) => (float[12,4] y) <float[5,4] v, float[1] b> { y = Gemm (x, v, b) }", ["y"]),
    "a factor": (
        "m (float[12,5] x) => (float[12,4] y) <float[5,4] v> { y = Gemm <alpha = 0.5> (x, v) }",
        ["x"],
    ),
    "a bias that is computed": (
        "m (float[12,5] x, float[4] b) => (float[12,4] y) <float[5,4] v> { y = Gemm (x, v, b) }",
        ["x"],
    ),
    "images": (
        "m (float[2,4,3,3] x) => (float[2,6,3,3] y) <float[6,2,3,3] v, float[6] b> "
        "{ y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, v, b) }",
        ["y"],
    ),
    "one image": (
        "m (float[1,4,5,3] x) => (float[1,6,5,3] y) <float[6,2,3,3] v, float[6] b> "
        "{ y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, v, b) }",
        ["y"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_products_and_their_means_are_those_of_the_weights(name: str) -> None:
    text, tensors = NETWORKS[name]
    graph = LpGraph.from_proto(parse_model(text))
    layers = [n.name for n in graph.layers()]
    reading = input_reading(graph.layers()[0])
    assert not isinstance(reading, str)
    products = float_products(graph, reading, layers)
    assert list(products.tensors) == tensors

    rng = np.random.default_rng(0)
    call = {
        i.name: rng.normal(0.3, 1, [int(d or 0) for d in i.shape or ()]).astype(np.float32)
        for i in graph.inputs
    }
    values = {**call, **run_model(graph.to_proto(), call)}
    x = reading.columns(call["x"], POSITIONS).astype(np.float64)  # (G, K, P)
    seen = x + rng.normal(0, 0.2, x.shape)
    assert int(np.prod(products.spans(values))) == reading.positions(call["x"].shape)
    columns = products.columns(values, POSITIONS)
    assert columns.shape == (reading.groups, products.rows, len(POSITIONS))
    found = products.of_layers(
        columns.astype(np.float64) @ seen.swapaxes(1, 2) / 5,
        columns.mean(-1, dtype=np.float64),
        seen.mean(-1),
    )
    for layer in layers:
        node = graph.node(layer)
        weight = node.inputs[1]
        assert weight is not None
        w: F64 = weight.values.astype(np.float64)
        rows = (w.reshape(len(w), -1) if node.op == "Conv" else w.T).reshape(
            reading.groups, -1, reading.inputs
        )
        y = rows @ x
        cross, mean = found[layer]
        wanted = (y @ seen.swapaxes(1, 2) / 5).reshape(-1, reading.inputs)
        np.testing.assert_allclose(cross, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mean, y.mean(-1).reshape(-1), rtol=1e-5, atol=1e-5)


def test_a_reading_has_the_span_of_its_output() -> None:
    graph = LpGraph.from_proto(parse_model(
        "m (float[5,7] x) => (float[7,4] y) <float[5,4] v> { y = Gemm <transA = 1> (x, v) }"
    ))  # fmt: skip
    (node,) = graph.layers()
    reading, output = input_reading(node), output_reading(node, 1)
    assert not isinstance(reading, str)
    assert output is not None
    assert reading.spans((5, 7)) == output.spans((7, 4)) == (7,)
