"""Latent and soft rounding of one layer against central differences, and against the levels of the format."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.quant.fit import fit
from lpcompile.reconstruction.latent_rounding import LatentLayer
from lpcompile.reconstruction.soft_rounding import SoftLayer
from lpcompile.tuning.activation_scales import STEPS, TunedScale
from lpcompile.tuning.estimators import Estimator
from tests.support import parse_model

FORMATS = ("fixp4", "posit4", "nf4", "pot4")


def layer(kind: type[LatentLayer], fmt: str, pull: float = 0.0) -> LatentLayer:
    graph = LpGraph.from_proto(
        parse_model("m (float[2,8] x) => (float[2,6] y) <float[8,6] w> { y = MatMul (x, w) }")
    )
    (node,) = graph.layers()
    weight = node.inputs[1]
    assert weight is not None
    tensor = fit(np.ascontiguousarray(weight.values.T), resolve(fmt), granularity="channel", rule="mse")
    return kind(node, tensor, Estimator("lsq"), False, np.zeros(6, np.float32), pull=pull)


def rows(made: LatentLayer) -> F32:
    weight = made.node.inputs[1]
    assert weight is not None
    return np.asarray(weight.values.T, np.float32)


@pytest.mark.parametrize("fmt", FORMATS)
def test_soft_weights_start_as_the_floats_and_end_at_a_neighbour(fmt: str) -> None:
    made = layer(SoftLayer, fmt)
    values, w = made.start(), rows(made)
    soft, tensor = made.feeds(values)["weight"].T, made.tensor
    inside = np.abs(w) < 0.8 * np.abs(tensor.dequantize()).max(axis=1, keepdims=True)
    gap = np.broadcast_to(made._gap, w.shape)  # type: ignore[attr-defined]
    assert np.abs(soft - w)[inside].max() <= 0.011 * gap[inside].max()
    np.testing.assert_array_equal(made.round(values).codes, tensor.codes)
    for sign, better in ((1, np.greater_equal), (-1, np.less_equal)):
        key = f"{made.name}/rounding"
        hard = made.round({**values, key: values[key] + np.float32(10 * sign)}).dequantize()
        assert better(hard, soft - 1e-6).all()
        assert (np.abs(hard - soft) <= gap * 1.001).all(), "no further than the next level"


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("done", [0.1, 0.6, 1.0])
def test_gradient_of_soft_rounding(fmt: str, done: float) -> None:
    made = layer(SoftLayer, fmt, pull=3.0)
    assert isinstance(made, SoftLayer)
    made.done = done
    rng = np.random.default_rng(0)
    towards = rng.standard_normal((8, 6)).astype(np.float32)
    values, key = made.start(), f"{made.name}/rounding"
    made.feeds(values)
    found = made.gradients({"weight": towards})[key].astype(np.float64)
    step, v = 1e-4, values[key].astype(np.float64)
    b = 2 + 18 * 0.5 * (1 + np.cos(np.pi * (done - 0.2) / 0.8))

    def loss(at: np.ndarray) -> np.ndarray:
        """Of each weight, in float64, written anew."""
        h = np.clip(1.2 / (1 + np.exp(-5 * at)) - 0.1, 0, 1)
        pull = 0 if done < 0.2 else 3.0 * (1 - np.abs(2 * h - 1) ** b) / h.size
        return np.asarray(towards.T * (made._low + h * made._gap) + pull)

    wanted = (loss(v + step) - loss(v - step)) / (2 * step)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())


def test_the_pull_brings_latent_weights_to_their_level() -> None:
    made = layer(LatentLayer, "fixp4", pull=5.0)
    made.done = 1.0
    values = made.start()
    made.feeds(values)
    key = f"{made.name}/weight"
    with_pull = made.gradients({"weight": np.zeros((8, 6), np.float32)})[key]
    latent = values[key] * made._units["weight"]
    wanted = 5.0 * (latent - made.tensor.dequantize()) / made._units["weight"] / latent.size
    np.testing.assert_allclose(with_pull, wanted, rtol=1e-4, atol=1e-7)
    made.done = 0.0
    assert not made.gradients({"weight": np.zeros((8, 6), np.float32)})[key].any()


def test_a_scale_that_did_not_move_is_the_planned_one() -> None:
    plan = ActivationPlan("uint4", float(np.float32(0.1)), 3, "t")
    scale = TunedScale("t/scale", plan)
    values = scale.start()
    assert scale.scale(values) == plan.scale
    values["t/scale/scale"] += np.float32(100)
    scale.hold(values)
    assert scale.scale(values) == pytest.approx(2 * plan.scale)
    gradient = scale.gradients({"scale": np.asarray(4.0, np.float32)})["t/scale/scale"]
    assert gradient[0] == pytest.approx(4.0 * plan.scale / STEPS)
