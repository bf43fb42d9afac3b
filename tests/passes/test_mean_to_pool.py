"""`canonicalize`: ReduceMean over height and width."""

import numpy as np
import pytest

from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import left_alone, rewrite


@pytest.mark.parametrize("axes", ["2, 3", "-1, -2", "3, 2"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_as_attribute(axes: str, keepdims: int) -> None:
    shape = "a, b, c, d" if keepdims else "a, b"
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[N, 3, 4, 5] x) => (float[{shape}] y)
        {{ y = ReduceMean <axes = [{axes}], keepdims = {keepdims}> (x) }}""",
        opset=13,
        rtol=1e-6,
    )
    assert graph.ops() == ["GlobalAveragePool", "Flatten"][: 2 - keepdims]


def test_axes_as_input() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[N, 3, 4, 5] x) => (float[a, b, c, d] y) <int64[2] axes = {2, 3}> { y = ReduceMean (x, axes) }
        """,
        opset=18,
        rtol=1e-6,
    )
    assert graph.ops() == ["GlobalAveragePool"]


@pytest.mark.parametrize(
    "model",
    [
        "m (float[2, 3, 4, 5] x) => (float[a, b, c, d] y) { y = ReduceMean <axes = [1, 2]> (x) }",
        "m (float[2, 3, 4, 5] x) => (float[a, b, c, d] y) { y = ReduceMean <axes = [3]> (x) }",
        "m (float[2, 3, 4, 5] x) => (float[a, b, c, d] y) { y = ReduceMean (x) }",
        "m (float[2, 4, 5] x) => (float[a, b, c] y) { y = ReduceMean <axes = [1, 2]> (x) }",
        "m (int32[2, 3, 4, 5] x) => (int32[a, b, c, d] y) { y = ReduceMean <axes = [2, 3]> (x) }",
    ],
)
def test_other_means_stay(model: str) -> None:
    assert left_alone(Canonicalize(), model, opset=13) == []


def test_doubles_stay() -> None:
    reasons = left_alone(
        Canonicalize(),
        "m (double[2, 3, 4, 5] x) => (double[a, b, c, d] y) { y = ReduceMean <axes = [2, 3]> (x) }",
        opset=13,
    )
    assert reasons == ["GlobalAveragePool takes float16 and float32 only"]


def test_an_unknown_rank_stays() -> None:
    reasons = left_alone(
        Canonicalize(),
        """
        m (float[2, 3, 4, 5] x, int64[n] shape) => (float y)
        { t = Reshape (x, shape)  y = ReduceMean <axes = [-1, -2], keepdims = 0> (t) }""",
        opset=13,
        feeds={"x": np.ones((2, 3, 4, 5), np.float32), "shape": np.array([10, 12])},
    )
    assert reasons == ["the rank of its input is not known"]
