"""`canonicalize`: MatMul and Add as Gemm, and one form of Gemm."""

import numpy as np
import pytest

from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import left_alone, rewrite

RTOL = 1e-6


@pytest.mark.parametrize("bias", ["float[5] b", "float[1, 5] b", "float b", "float[1] b", "float[1, 1] b"])
@pytest.mark.parametrize("order", ["t, b", "b, t"])
def test_matmul_and_a_row_become_gemm(bias: str, order: str) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[N, 4] x) => (float[N, 5] y) <float[4, 5] w, {bias}>
        {{ t = MatMul (x, w)  y = Add ({order}) }}""",
        rtol=RTOL,
    )
    (gemm,) = graph.nodes()
    assert gemm.op == "Gemm"
    assert gemm.inputs[2] is not None
    assert gemm.inputs[2].shape == (5,)


@pytest.mark.parametrize(
    ("inputs", "outputs", "weights", "product"),
    [
        ("float[2, 3, 4] x", "float[a, b, c] y", "float[4, 5] w, float[5] b", "x, w"),
        ("float[4, 2] x", "float[a, b] y", "float[5, 4] w, float[2] b", "w, x"),
        ("float[2, 4] x, float[5] b", "float[a, b] y", "float[4, 5] w", "x, w"),
        ("float[2, 4] x", "float[a, b] y, float[a, b] t", "float[4, 5] w, float[5] b", "x, w"),
        ("int32[2, 4] x", "int32[a, b] y", "int32[4, 5] w, int32[5] b", "x, w"),
    ],
)
def test_other_products_stay(inputs: str, outputs: str, weights: str, product: str) -> None:
    model = f"m ({inputs}) => ({outputs}) <{weights}> {{ t = MatMul ({product})  y = Add (t, b) }}"
    assert left_alone(Canonicalize(), model) == []


@pytest.mark.parametrize("bias", ["float[2, 5] b", "float[2, 1] b", "float[1, 1, 5] b"])
def test_what_is_no_row_stays(bias: str) -> None:
    out = "a, b, c" if bias.count(",") == 2 else "a, b"
    reasons = left_alone(
        Canonicalize(),
        f"""
        m (float[2, 4] x) => (float[{out}] y) <float[4, 5] w, {bias}>
        {{ t = MatMul (x, w)  y = Add (t, b) }}""",
    )
    assert reasons == ["what is added to it is no constant row"]


def test_an_unknown_rank_stays() -> None:
    reasons = left_alone(
        Canonicalize(),
        """
        m (float[2, 4] x, int64[n] shape) => (float y) <float[4, 5] w, float[5] b>
        { u = Reshape (x, shape)  t = MatMul (u, w)  v = Add (t, b)  y = ReduceSum <keepdims = 0> (v) }""",
        feeds={"x": np.ones((2, 4), np.float32), "shape": np.array([2, 4])},
    )
    assert reasons == ["the rank of its input is not known"]


@pytest.mark.parametrize(
    ("weight", "attributes", "bias"),
    [
        ("float[5, 4] w", "transB = 1", "float[5] b"),
        ("float[4, 5] w", "alpha = 0.5, beta = 2.0", "float[1, 5] b"),
        ("float[5, 4] w", "alpha = -1.5, transB = 1", "float[2, 5] b"),
        ("float[4, 5] w", "beta = 3.0", "float[2, 1] b"),
        ("float[4, 5] w", "beta = 0.0", "float b"),
    ],
)
def test_gemm_has_one_form(weight: str, attributes: str, bias: str) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[2, 4] x) => (float[a, c] y) <{weight}, {bias}> {{ y = Gemm <{attributes}> (x, w, b) }}""",
        rtol=RTOL,
    )
    (gemm,) = graph.nodes()
    assert dict(gemm.attrs) == {}
    assert gemm.inputs[1] is not None
    assert gemm.inputs[1].shape == (4, 5)


def test_gemm_without_bias_and_with_a_transposed_input() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[4, 2] x) => (float[a, c] y) <float[5, 4] w>
        { y = Gemm <transA = 1, transB = 1, alpha = 2.0> (x, w) }
        """,
        rtol=RTOL,
    )
    assert dict(graph.nodes()[0].attrs) == {"transA": 1}


def test_layers_that_share_a_weight_go_on_sharing() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[2, 4] x) => (float[a, c] y, float[a, d] z) <float[4, 4] w>
        { y = Gemm <transB = 1> (x, w)  t = Relu (y)  z = Gemm <transB = 1> (t, w) }""",
        rtol=RTOL,
    )
    one, other = graph.nodes("Gemm")
    assert one.inputs[1] == other.inputs[1]


def test_a_weight_that_is_a_graph_output_stays_one() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[2, 4] x) => (float[a, c] y, float[5, 4] w) <float[5, 4] w>
        { y = Gemm <transB = 1> (x, w) }""",
        rtol=RTOL,
    )
    assert [value.name for value in graph.outputs] == ["y", "w"]


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        ("float[2, 4] x, float[5, 4] w, float[5] b", "transB = 1", "its weight is not a float constant"),
        ("float[2, 4] x, float[5] b", "transB = 1, beta = 2.0", "beta scales a bias that is not constant"),
    ],
)
def test_why_gemm_stays(inputs: str, attributes: str, reason: str) -> None:
    weight = "" if " w" in inputs else "<float[5, 4] w>"
    reasons = left_alone(
        Canonicalize(), f"m ({inputs}) => (float[a, c] y) {weight} {{ y = Gemm <{attributes}> (x, w, b) }}"
    )
    assert reasons == [reason]
