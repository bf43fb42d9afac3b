"""The chain rule over a whole graph."""

import numpy as np

from tests.autodiff.gradients import gradients_of
from tests.support import parse_model


def test_a_tensor_that_two_nodes_read_gets_the_sum_of_their_gradients() -> None:
    model = parse_model("""
        fan_out (double[2,3] x) => (double[2,3] y)
        <double[3] w> { a = Mul (x, w)  b = Mul (x, a)  y = Add (a, b) }""")
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3))}
    ours, expected = gradients_of(model, feeds, ["x", "w"])
    for name in ("x", "w"):
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-8)


def test_broadcasting_of_unknown_shapes_is_undone_at_run_time() -> None:
    model = parse_model("""
        unknown (double[N,M] x, double[K,M] z) => (double[A,B] y) { y = Mul (x, z) }""")
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(2, 3)), "z": rng.normal(size=(1, 3))}
    ours, expected = gradients_of(model, feeds, ["x", "z"])
    for name in ("x", "z"):
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-8)
