"""Normalisations against central differences."""

import numpy as np
import pytest

from lpcompile.errors import GradientError
from tests.autodiff.agreement import assert_gradients
from tests.support import run_model

BATCH = "double[3] scale, double[3] bias, double[3] mean, double[3] var"


def test_batch_normalization_with_given_statistics() -> None:
    assert_gradients(
        f"net (double[N,3,4,2] x) => (double[N,3,4,2] y) <{BATCH}> "
        "{ y = BatchNormalization (x, scale, bias, mean, var) }",
        ["x", "scale", "bias", "mean", "var"],
    )


def test_batch_normalization_with_fed_statistics() -> None:
    feeds = {n: np.random.default_rng(0).uniform(0.5, 2, 3) for n in ("scale", "bias", "mean", "var")}
    feeds["x"] = np.random.default_rng(1).normal(size=(4, 3))
    assert_gradients(
        f"net (double[N,3] x, {BATCH}) => (double[N,3] y) {{ y = BatchNormalization (x, scale, bias, mean, var) }}",
        ["x", "scale", "bias", "mean", "var"],
        feeds,
    )


@pytest.mark.parametrize("shape", ["[2,3,4,2]", "[N,3,H,W]"])
def test_batch_normalization_with_batch_statistics(shape: str) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 2))}
    assert_gradients(
        f"net (double{shape} x) => (double[A,3,B,C] y) <{BATCH}> "
        "{ y, m, v = BatchNormalization <training_mode=1> (x, scale, bias, mean, var) }",
        ["x", "scale", "bias"],
        feeds,
    )


def test_running_statistics_are_refused_by_name() -> None:
    with pytest.raises(GradientError, match="running statistics"):
        assert_gradients(
            f"net (double[2,3,4,2] x) => (double[2,3,4,2] y, double[3] m) <{BATCH}> "
            "{ y, m, v = BatchNormalization <training_mode=1> (x, scale, bias, mean, var) }",
            ["x"],
        )


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", ["[2,3,4]", "[N,S,4]"])
def test_layer_normalization(axis: int, shape: str) -> None:
    affine = "double[4]" if axis == -1 else "double[3,4]"
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4))}
    assert_gradients(
        f"net (double{shape} x) => (double[A,B,C] y) <{affine} scale, {affine} bias> "
        f"{{ y = LayerNormalization <axis={axis}, epsilon=0.01> (x, scale, bias) }}",
        ["x", "scale", "bias"],
        feeds,
    )


def test_rms_normalization() -> None:
    assert_gradients(
        "net (double[N,3,4] x) => (double[N,3,4] y) <double[4] scale> { y = RMSNormalization <axis=-1> (x, scale) }",
        ["x", "scale"],
        opset=23,
    )


def test_simplified_layer_normalization_which_onnx_runtime_knows() -> None:
    assert_gradients(
        "net (double[N,3,4] x) => (double[N,3,4] y) <double[4] scale> "
        "{ y = SimplifiedLayerNormalization <axis=-1, epsilon=0.00001> (x, scale) }",
        ["x", "scale"],
        by=run_model,
    )


@pytest.mark.parametrize("shape", ["[2,3,4,2]", "[N,3,H,W]"])
def test_instance_normalization(shape: str) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 2))}
    assert_gradients(
        f"net (double{shape} x) => (double[A,3,B,C] y) <double[3] scale, double[3] bias> "
        "{ y = InstanceNormalization (x, scale, bias) }",
        ["x", "scale", "bias"],
        feeds,
    )


@pytest.mark.parametrize(("opset", "width"), [(18, 2), (21, 6)])
@pytest.mark.parametrize("shape", ["[2,6,3,2]", "[N,6,H,W]"])
def test_group_normalization(opset: int, width: int, shape: str) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 6, 3, 2))}
    stash = ", stash_type=11" if opset == 21 else ""
    assert_gradients(
        f"net (double{shape} x) => (double[A,6,B,C] y) <double[{width}] scale, double[{width}] bias> "
        f"{{ y = GroupNormalization <num_groups=2{stash}> (x, scale, bias) }}",
        ["x", "scale", "bias"],
        feeds,
        opset=opset,
    )
