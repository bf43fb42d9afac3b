"""Pools against central differences."""

import numpy as np
import pytest

from tests.autodiff.agreement import PROBE_SEED, assert_gradients, gradients_by, reference
from tests.support import parse_model, run_model

POOLS = {
    "2x2": ("[2,3,6,6]", "kernel_shape=[2,2], strides=[2,2]"),
    "overlapping": ("[2,3,6,7]", "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
    "stride 1": ("[1,2,5,5]", "kernel_shape=[3,2]"),
    "unequal padding": ("[1,2,5,6]", "kernel_shape=[3,3], strides=[1,2], pads=[0,1,2,0]"),
    "rounded up": ("[1,2,6,7]", "kernel_shape=[3,3], strides=[2,2], ceil_mode=1"),
    "same": ("[1,2,5,7]", 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"'),
    "one axis": ("[2,3,9]", "kernel_shape=[4], strides=[3], pads=[1,1]"),
    "three axes": ("[1,2,4,5,4]", "kernel_shape=[2,2,3], strides=[2,1,1]"),
}


@pytest.mark.sweep
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("name", POOLS)
def test_pool(op: str, name: str) -> None:
    x, attrs = POOLS[name]
    spatial = ",".join("ABC"[: x.count(",") - 1])
    assert_gradients(f"net (double{x} x) => (double[N,M,{spatial}] y) {{ y = {op} <{attrs}> (x) }}", ["x"])


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("name", [n for n in POOLS if n != "same"])
def test_pool_of_symbolic_sizes(op: str, name: str) -> None:
    x, attrs = POOLS[name]
    sizes = [int(d) for d in x[1:-1].split(",")]
    declared = ",".join(["N", str(sizes[1]), *(f"S{i}" for i in range(len(sizes) - 2))])
    spatial = ",".join("ABC"[: x.count(",") - 1])
    feeds = {"x": np.random.default_rng(0).normal(size=sizes)}
    assert_gradients(
        f"net (double[{declared}] x) => (double[N,M,{spatial}] y) {{ y = {op} <{attrs}> (x) }}", ["x"], feeds
    )


def test_average_pool_that_counts_its_padding() -> None:
    assert_gradients(
        "net (double[1,2,5,5] x) => (double[1,2,A,B] y) "
        "{ y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], count_include_pad=1> (x) }",
        ["x"],
    )


def test_average_pool_that_counts_its_padding_and_rounds_up() -> None:
    text = (
        "net (float[1,1,6,6] x) => (float[1,1,A,B] y) "
        "{ y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], count_include_pad=1, ceil_mode=1> (x) }"
    )
    assert_gradients(text, ["x"], by=run_model, step=1.0, runtime=False)


def test_max_pool_with_dilation() -> None:
    assert_gradients(
        "net (double[1,2,7,7] x) => (double[1,2,A,B] y) "
        "{ y = MaxPool <kernel_shape=[2,3], dilations=[2,2], strides=[1,2], pads=[1,1,0,1]> (x) }",
        ["x"],
    )


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", ["[2,3,4,5]", "[N,3,H,W]"])
def test_global_pool(op: str, shape: str) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 5))}
    text = f"net (double{shape} x) => (double[A,B,1,1] y) {{ y = {op} (x) }}"
    if op == "GlobalLpPool":  # which onnx's reference evaluator does not have
        feeds = {"x": feeds["x"].astype(np.float32)}
        ours = gradients_by(run_model, parse_model(text.replace("double", "float")), feeds, ["x"])["x"]
        x = feeds["x"]
        norm = np.sqrt((x**2).sum((2, 3), keepdims=True))
        probe = np.random.default_rng(PROBE_SEED).normal(size=(2, 3, 1, 1))
        np.testing.assert_allclose(ours, probe * x / norm, rtol=1e-5)
    else:
        assert_gradients(text, ["x"], feeds)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p: int) -> None:
    assert_gradients(
        "net (double[1,2,5,5] x) => (double[1,2,A,B] y) "
        f"{{ y = LpPool <kernel_shape=[3,3], strides=[2,2], p={p}> (x) }}",
        ["x"],
        opset=18,
    )


def test_the_first_of_equal_maxima_gets_everything() -> None:
    model = parse_model(
        "net (double[1,1,2,4] x) => (double[1,1,1,2] y) "
        "{ y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) }"
    )
    feeds = {"x": np.array([[[[1.0, 5, 5, 2], [5, 5, 1, 5]]]])}
    found = gradients_by(reference, model, feeds, ["x"])["x"]
    first, second = np.random.default_rng(PROBE_SEED).normal(size=2)
    np.testing.assert_array_equal(found, [[[[0, first, second, 0], [0, 0, 0, 0]]]])
