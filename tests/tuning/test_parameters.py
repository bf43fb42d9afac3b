"""Trained arrays and their units, against the formulas in float64."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import from_rows, to_rows
from lpcompile.tuning.estimators import Estimator
from lpcompile.tuning.parameters import SCALE_STEPS, TunedLayer, TunedNorm
from tests.support import parse_model

CONV = "m (float[1,3,5,5] x) => (float[1,4,3,3] y) <float[4,3,3,3] w, float[4] b> { y = Conv (x, w, b) }"
GEMM = "m (float[1,9] x) => (float[1,4] y) <float[9,4] w, float[4] b> { y = Gemm (x, w, b) }"
NORM = """m (float[N,3,4,4] x) => (float[N,3,4,4] y)
<float[3] scale, float[3] beta, float[3] mean, float[3] var> {
    y = BatchNormalization (x, scale, beta, mean, var)
}"""


def node(text: str) -> Node:
    return LpGraph.from_proto(parse_model(text)).nodes()[0]


def layer(
    text: str, estimator: str, *, fmt: str = "fixp4", granularity: str = "channel", learn: bool = False
) -> TunedLayer:
    n = node(text)
    weight, bias = n.inputs[1:]
    assert weight is not None
    assert bias is not None
    tensor = fit(to_rows(n.op, weight.values), resolve(fmt), granularity=granularity, group_size=4)
    return TunedLayer(n, tensor, Estimator(estimator), learn, np.asarray(bias.values, np.float32))


@pytest.mark.parametrize("text", [CONV, GEMM])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("learn", [False, True])
def test_before_training_the_model_reads_what_was_planned(text: str, granularity: str, learn: bool) -> None:
    tuned = layer(text, "ste", granularity=granularity, learn=learn)
    feeds = tuned.feeds(tuned.start())
    weight = tuned.node.inputs[1]
    assert weight is not None
    wanted = np.asarray(from_rows(tuned.op, tuned.tensor.dequantize(), weight.dims), np.float32)
    np.testing.assert_allclose(feeds["weight"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(feeds["bias"], tuned.bias)


@pytest.mark.parametrize("text", [CONV, GEMM])
def test_a_step_along_the_gradient_moves_weights_by_steps_of_their_quantiser(text: str) -> None:
    tuned = layer(text, "ste")
    values = tuned.start()
    feeds = tuned.feeds(values)
    rng = np.random.default_rng(0)
    found = {k: rng.normal(size=a.shape).astype(np.float32) for k, a in feeds.items()}
    gradients = tuned.gradients(found)
    scales = np.asarray(tuned.tensor.scales).reshape(-1, 1) * tuned.tensor.format.image_scale
    rows = to_rows(tuned.op, found["weight"])
    inside = np.abs(values[f"{tuned.name}/weight"] + 0.5) <= 7.5
    np.testing.assert_allclose(gradients[f"{tuned.name}/weight"], rows * scales * inside, rtol=1e-4)
    moved = {**values, f"{tuned.name}/weight": values[f"{tuned.name}/weight"] + np.float32(1)}
    step = (to_rows(tuned.op, tuned.feeds(moved)["weight"]) - to_rows(tuned.op, feeds["weight"])) / scales
    assert (np.abs(step - 1) < 1e-3)[values[f"{tuned.name}/weight"] < 6].all()


def test_scales_learn_by_the_rule_of_learned_step_sizes() -> None:
    tuned = layer(CONV, "lsq", learn=True)
    values = tuned.start()
    feeds = tuned.feeds(values)
    g = np.random.default_rng(1).normal(size=feeds["weight"].shape).astype(np.float32)
    gradients = tuned.gradients({"weight": g})
    s = np.asarray(tuned.tensor.scales, np.float64).reshape(-1, 1) * tuned.tensor.format.image_scale
    v = values[f"{tuned.name}/weight"].astype(np.float64)  # w / s
    slope = np.where(v <= -8, -8, np.where(v >= 7, 7, np.clip(np.rint(v), -8, 7) - v))
    wanted = (g.reshape(4, -1) * slope).sum(1, keepdims=True) / np.sqrt(27 * 7) * s / SCALE_STEPS
    np.testing.assert_allclose(gradients[f"{tuned.name}/scale"], wanted, rtol=1e-3, atol=1e-6)


def test_scales_stay_in_their_limits() -> None:
    tuned = layer(CONV, "lsq", learn=True)
    tuned.least_scales = 0.9 * np.asarray(tuned.quantiser.scales[:, 0])
    values = tuned.start()
    values[f"{tuned.name}/scale"][:] = np.array([[1e-3], [1e3], [9.5], [10.0]], np.float32)
    tuned.hold(values)
    np.testing.assert_allclose(values[f"{tuned.name}/scale"], np.array([[9], [40], [9.5], [10]]), rtol=1e-5)


def test_running_averages_take_a_tenth_of_each_batch() -> None:
    norm = TunedNorm(node(NORM), running=True)
    values = norm.start()
    mean, variance = (values[f"{norm.name}/{k}"].copy() for k in ("mean", "variance"))
    norm.follow(values, np.ones((1, 3, 1, 1), np.float32), np.full((1, 3, 1, 1), 2, np.float32))
    np.testing.assert_allclose(values[f"{norm.name}/mean"], 0.9 * mean + 0.1, rtol=1e-5)
    np.testing.assert_allclose(values[f"{norm.name}/variance"], 0.9 * variance + 0.2, rtol=1e-5)
    scale = norm.node.inputs[1]
    assert scale is not None
    np.testing.assert_allclose(norm.feeds(values)["scale"], scale.values, rtol=1e-6)
