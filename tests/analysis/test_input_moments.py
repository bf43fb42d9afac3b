"""Moments spread over the rows of a layer's weights, against the columns that the layer really multiplies."""

import numpy as np
import pytest

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import moment_axes, row_means, second_moments
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.rows import to_rows
from tests.support import Array, parse_model, run_model


def observed(text: str, x: Array) -> tuple[LpGraph, dict[str, TensorStatistics]]:
    graph = LpGraph.from_proto(parse_model(text))
    axes = moment_axes(graph.layers())
    statistics = {}
    for name, axis in axes.items():
        statistics[name] = TensorStatistics(channel_axis=axis)
        statistics[name].update(x)
    return graph, statistics


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("m (float[8,6,1,1] x) => (float[8,4,1,1] y) <float[4,6,1,1] w> { y = Conv (x, w) }", (8, 6, 1, 1)),
        (
            "m (float[8,6,3,2] x) => (float[8,4,1,1] y) <float[4,3,3,2] w> { y = Conv <group = 2> (x, w) }",
            (8, 6, 3, 2),
        ),
        (
            "m (float[8,6,3,2] x) => (float[8,6,1,1] y) <float[6,1,3,2] w> { y = Conv <group = 6> (x, w) }",
            (8, 6, 3, 2),
        ),
        (
            "m (float[8,6,5,4] x) => (float[8,4,3,4] y) <float[4,6,3,3] w> "
            "{ y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w) }",
            (8, 6, 5, 4),
        ),
        (
            "m (float[8,6,4,5] x) => (float[8,6,2,3] y) <float[6,1,3,2] w> "
            "{ y = Conv <group = 6, pads = [0, 1, 1, 1], strides = [2, 2], dilations = [1, 2]> (x, w) }",
            (8, 6, 4, 5),
        ),
        ("m (float[2,4,6] x) => (float[2,4,3] y) <float[6,3] w> { y = MatMul (x, w) }", (2, 4, 6)),
        ("m (float[8,6] x) => (float[8,3] y) <float[6,3] w> { y = Gemm (x, w) }", (8, 6)),
    ],
)
def test_rows_times_means_are_the_mean_outputs(text: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape) + np.arange(6).reshape(
        -1, *[1] * (len(shape) - 2) * (len(shape) > 3)
    )
    x = np.broadcast_to(x.mean((-2, -1), keepdims=True), shape) if len(shape) == 4 else x  # flat planes
    x = x.astype(np.float32)
    graph, statistics = observed(text, x)
    node = graph.layers()[0]
    means, weight = row_means(node, statistics), node.inputs[1]
    assert weight is not None
    assert means is not None
    y = run_model(parse_model(text), {"x": x})["y"].astype(np.float64)
    y = np.moveaxis(y, 1, -1) if node.op == "Conv" else y
    wanted = y.reshape(-1, y.shape[-1]).mean(0)
    np.testing.assert_allclose((to_rows(node.op, weight.values) * means).sum(1), wanted, atol=1e-5)
    squares = second_moments(node, statistics)
    assert squares is not None
    assert squares.shape == (means.shape[1],)


def test_second_moments_of_a_matrix_are_those_of_its_inputs() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    graph, statistics = observed(
        "m (float[50,6] x) => (float[50,3] y) <float[6,3] w> { y = MatMul (x, w) }", x
    )
    found = second_moments(graph.layers()[0], statistics)
    assert found is not None
    np.testing.assert_allclose(found, (x**2).mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "m (float[1,4,5,5] x) => (float[1,3,6,6] y) <float[4,3,2,2] w> { y = ConvTranspose (x, w) }",
        "m (float[6,4] x) => (float[4,3] y) <float[6,3] w> { y = Gemm <transA = 1> (x, w) }",
        "m (float[4,6] x) => (float[4,3] y) <float[3,6] w> { y = Gemm <transB = 1> (x, w) }",
    ],
)
def test_layers_whose_products_do_not_follow_channels_have_none(text: str) -> None:
    graph = LpGraph.from_proto(parse_model(text))
    node = graph.layers()[0]
    assert moment_axes([node]) == {}
    assert row_means(node, {"x": TensorStatistics()}) is None
    assert second_moments(node, {"x": TensorStatistics()}) is None


def test_without_a_sweep_there_are_none() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[4,6] x) => (float[4,3] y) <float[6,3] w> { y = MatMul (x, w) }")
    )
    assert row_means(graph.layers()[0], {}) is None
    assert second_moments(graph.layers()[0], {}) is None


def test_a_tensor_that_layers_read_along_different_axes_has_the_moments_of_one() -> None:
    text = """m (float[1,3,4,3] x) => (float[1,2,4,3] y, float[1,3,4,2] z) <float[2,3,1,1] w, float[3,2] v> {
        y = Conv (x, w)
        z = MatMul (x, v) }"""
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 3)).astype(np.float32)
    graph, statistics = observed(text, x)
    conv, matmul = graph.layers()
    assert row_means(conv, statistics) is None
    assert second_moments(conv, statistics) is None
    np.testing.assert_allclose(second_moments(matmul, statistics), (x**2).mean((0, 1, 2)), rtol=1e-5)  # type: ignore[arg-type]


def test_squares_beyond_float32_stay_finite() -> None:
    x = np.full((4, 6), 1e25, np.float32)
    graph, statistics = observed("m (float[4,6] x) => (float[4,3] y) <float[6,3] w> { y = MatMul (x, w) }", x)
    found = second_moments(graph.layers()[0], statistics)
    assert found is not None
    assert np.isfinite(found).all()


def test_sizes_of_all_calls_count() -> None:
    text = "m (float[1,2,H,W] x) => (float[1,3,H,W] y) <float[3,2,3,3] w> { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    graph = LpGraph.from_proto(parse_model(text))
    statistics = TensorStatistics(channel_axis=1)
    for size in (1, 64, 64, 64):
        statistics.update(np.ones((1, 2, size, size), np.float32))
    means = row_means(graph.layers()[0], {"x": statistics})
    assert means is not None
    corner, centre = (63 / 64) ** 2 * 3 / 4, 1
    np.testing.assert_allclose(means[0][[0, 4]], [corner, centre])
