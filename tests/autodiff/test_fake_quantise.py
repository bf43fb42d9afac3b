"""Fake quantisation: the gradient passes straight through, and a Clip before it cuts it off outside of the range."""

import numpy as np

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, run_model


def test_the_pair_is_the_identity_inside_the_range_and_cut_off_outside() -> None:
    model = parse_model("""m (float[6] x) => (float[6] y)
        <float low = {-1.0}, float high = {0.5}, float s = {0.1}, uint8 z = {10}, float[6] w> {
            c = Clip (x, low, high)
            q = QuantizeLinear (c, s, z)
            d = DequantizeLinear (q, s, z)
            y = Mul (d, w)
        }""")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    seed = graph.constant("seed", np.arange(1, 7, dtype=np.float32))
    found = add_gradients(graph, {"y": seed}, ["x", "w"])
    for name, value in found.items():
        assert value is not None, name
        graph.add_output(value)
    x = np.array([-3, -0.97, -0.2, 0.04, 0.49, 0.9], np.float32)
    weights = graph.value("w").values
    given = run_model(graph.to_proto(), {"x": x})
    inside = np.array([0, 1, 1, 1, 1, 0])
    assert found["x"] is not None
    assert found["w"] is not None
    np.testing.assert_allclose(given[found["x"].name], np.arange(1, 7) * weights * inside, rtol=1e-6)
    rounded = np.clip(np.rint(x / 0.1), -10, 5) * 0.1
    np.testing.assert_allclose(given[found["w"].name], np.arange(1, 7) * rounded, rtol=1e-5)
