"""Quantisers: straight through inside the range, nothing outside, and the learned-step-size rule for the scale."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.autodiff.agreement import reference
from tests.support import parse_model, run_model

Array = NDArray[Any]


def gradients(text: str, feeds: dict[str, Array], seed: Array, wanted: list[str]) -> dict[str, Array]:
    """By ONNX Runtime, which the reference evaluator has to agree with."""
    graph = LpGraph.from_proto(parse_model(text, opset=21, ir_version=10, check=False))
    graph.infer_shapes()
    found = add_gradients(graph, {"y": graph.constant("seed", seed)}, wanted)
    for value in found.values():
        assert value is not None
        graph.add_output(value)
    ours, theirs = run_model(graph.to_proto(), feeds), reference(graph.to_proto(), feeds)
    results = {n: ours[v.name] for n, v in found.items() if v is not None}
    for name, value in found.items():
        assert value is not None
        np.testing.assert_allclose(results[name], theirs[value.name], rtol=1e-4, atol=1e-5)
    return results


def learned_step(x: Array, s: Array, z: Array, low: int, high: int) -> tuple[Array, Array]:
    """dx^/dx and dx^/ds of every element. [LSQ, eq. 3]"""
    v = x.astype(np.float64) / s + z
    inside = (v >= low) & (v <= high)
    codes = np.clip(np.rint(v), low, high)
    return inside.astype(float), np.where(inside, np.rint(v) - v, codes - z)


@pytest.mark.parametrize(("kind", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int4", -8, 7)])
def test_the_pair_follows_the_rule_of_learned_steps(kind: str, low: int, high: int) -> None:
    rng = np.random.default_rng(0)
    zero = 3 if kind != "int4" else 0
    feeds = {"x": (rng.normal(size=(4, 5)) * 10).astype(np.float32), "s": np.array(0.09, np.float32)}
    seed = rng.normal(size=(4, 5)).astype(np.float32)
    found = gradients(
        f"""net (float[4,5] x, float s) => (float[4,5] y) <{kind} z = {{{zero}}}>
        {{ q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }}""",
        feeds,
        seed,
        ["x", "s"],
    )
    dx, ds = learned_step(feeds["x"], feeds["s"], np.array(zero), low, high)
    np.testing.assert_allclose(found["x"], seed * dx, rtol=1e-5)
    np.testing.assert_allclose(found["s"], (seed * ds).sum(), rtol=1e-3)
    assert 0 < dx.sum() < dx.size


@pytest.mark.parametrize("axis", [0, 1])
def test_one_scale_a_channel(axis: int) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "s": rng.uniform(0.003, 0.02, (3, 4)[axis]).astype(np.float32),
    }
    seed = rng.normal(size=(3, 4, 2)).astype(np.float32)
    found = gradients(
        f"""net (float[N,4,2] x, float[{(3, 4)[axis]}] s) => (float[N,4,2] y)
        {{
            q = QuantizeLinear <axis = {axis}, output_dtype = 3> (x, s)
            y = DequantizeLinear <axis = {axis}> (q, s)
        }}""",
        feeds,
        seed,
        ["x", "s"],
    )
    s = feeds["s"].reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    dx, ds = learned_step(feeds["x"], s, np.array(0), -128, 127)
    np.testing.assert_allclose(found["x"], seed * dx, rtol=1e-5)
    others = tuple(a for a in range(3) if a != axis)
    np.testing.assert_allclose(found["s"], (seed * ds).sum(others), rtol=1e-3, atol=1e-3)


def test_weights_behind_codes_that_are_constant_get_the_gradient_of_their_scale() -> None:
    rng = np.random.default_rng(0)
    x, seed = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    text = """net (float[2,3] x, float s) => (float[2,4] y) <int8[3,4] q, int8 z = {1}>
        { w = DequantizeLinear (q, s, z)  y = MatMul (x, w) }"""
    found = gradients(text, {"x": x, "s": np.array(0.5, np.float32)}, seed, ["s"])
    held = {t.name: onnx.numpy_helper.to_array(t) for t in parse_model(text, opset=21).graph.initializer}
    codes = held["q"].astype(np.float64) - 1
    np.testing.assert_allclose(found["s"], ((x.T @ seed) * codes).sum(), rtol=1e-5)


def test_dynamic_quantisation_passes_gradients_straight_through() -> None:
    rng = np.random.default_rng(0)
    x, seed = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    found = gradients(
        """net (float[3,4] x) => (float[3,4] y)
        { q, s, z = DynamicQuantizeLinear (x)  y = DequantizeLinear (q, s, z) }""",
        {"x": x},
        seed,
        ["x"],
    )
    np.testing.assert_allclose(found["x"], seed, rtol=1e-5)
