"""A graph with what its layers store: the weights of the plan in the float operators."""

import numpy as np
import pytest

from lpcompile.analysis.stored_weights import with_stored_weights
from tests.quantizing import NO_COSTS, quantized
from tests.support import parse_model, random_feeds, run_model

NET = """m (float[N,4,6,6] x) => (float[N,3] y)
<float[8,2,3,3] w1, float[8] b1, float[4,8,1,1] w2, float[4,3] w3, float[3] b3> {
    a = Conv <group = 2> (x, w1, b1)  r = Relu (a)  c = Conv (r, w2)  g = GlobalAveragePool (c)
    f = Flatten (g)  y = Gemm (f, w3, b3)
}"""


def test_a_graph_whose_weights_are_not_rounded_is_itself() -> None:
    graph = quantized(NET, NO_COSTS).graph
    assert with_stored_weights(graph) is graph


@pytest.mark.parametrize("correct", ["", ",correct-bias"])
def test_it_gives_what_weights_expanded_to_floats_give(correct: str) -> None:
    """Without samples the emitted model stores weights alone."""
    weights = "quantize-weights{format=fixp4,granularity=group,group-size=8}" + correct
    found = quantized(parse_model(NET), f"{NO_COSTS},{weights}")
    stored = with_stored_weights(found.graph)
    feeds = random_feeds(found.original, seed=5)
    assert found.context.observe is not None
    y = found.context.observe(stored, ["y"])(feeds)["y"]
    x = feeds["x"].astype(np.float64)
    layers = found.graph.plan.layers
    rows, biases = [], []
    for node in found.graph.layers():
        layer = layers[node.name]
        assert layer.tensor is not None
        rows.append(layer.tensor.dequantize().astype(np.float64))
        own = node.inputs[2].values if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
        shift = 0.0 if layer.bias_correction is None else layer.bias_correction
        biases.append(np.broadcast_to(own + shift, len(rows[-1])))
    halves = []
    for half in (0, 1):  # two groups of two channels
        patches = np.lib.stride_tricks.sliding_window_view(x[:, 2 * half : 2 * half + 2], (3, 3), axis=(2, 3))
        w = rows[0][4 * half : 4 * half + 4].reshape(4, 2, 3, 3)
        halves.append(np.einsum("ncijkl,ockl->noij", patches, w))
    r = np.maximum(np.concatenate(halves, 1) + biases[0][:, None, None], 0)
    c = np.einsum("ncij,oc->noij", r, rows[1]) + biases[1][:, None, None]
    wanted = c.mean((2, 3)) @ rows[2].T + biases[2]
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(y - run_model(found.original, feeds)["y"]).max() > 1e-3
