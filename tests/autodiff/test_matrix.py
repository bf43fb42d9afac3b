"""Gemm, MatMul, Einsum, Softmax and LogSoftmax against central differences."""

import numpy as np
import pytest

from lpcompile.errors import GradientError
from tests.autodiff.agreement import assert_gradients

GEMMS = {
    "plain": ("[3,4]", "[4,5]", "[5]", ""),
    "turned": ("[4,3]", "[5,4]", "[3,5]", "transA=1, transB=1"),
    "turned a": ("[4,3]", "[4,5]", "[3,1]", "transA=1, alpha=0.5, beta=2.0"),
    "turned b": ("[3,4]", "[5,4]", "[1,5]", "transB=1, alpha=-1.5"),
    "a number": ("[3,4]", "[5,4]", "[1]", "transB=1, beta=0.25"),
}


@pytest.mark.parametrize("name", GEMMS)
def test_gemm(name: str) -> None:
    a, w, c, attrs = GEMMS[name]
    assert_gradients(
        f"net (double{a} a) => (double[N,M] y) <double{w} w, double{c} c> {{ y = Gemm <{attrs}> (a, w, c) }}",
        ["a", "w", "c"],
    )


def test_gemm_of_a_symbolic_batch() -> None:
    assert_gradients(
        "net (double[N,4] a) => (double[N,5] y) <double[5,4] w, double[5] c> { y = Gemm <transB=1> (a, w, c) }",
        ["a", "w", "c"],
    )


MATMULS = [
    ("[3,4]", "[4,5]"),
    ("[2,3,4]", "[4,5]"),
    ("[2,2,3,4]", "[4,5]"),
    ("[4]", "[4,5]"),
    ("[3,4]", "[4]"),
    ("[4]", "[4]"),
    ("[4]", "[3,4,2]"),
    ("[3,2,4]", "[4]"),
    ("[3,4]", "[2,4,5]"),
    ("[2,1,3,4]", "[3,4,5]"),
    ("[1,3,4]", "[2,2,4,5]"),
    ("[2,3,4]", "[2,4,5]"),
]


@pytest.mark.parametrize(("x", "w"), MATMULS)
@pytest.mark.parametrize("constant", [True, False])
def test_matmul(x: str, w: str, constant: bool) -> None:
    rank = max(len(x.split(",")), len(w.split(","))) - (x.count(",") == 0) - (w.count(",") == 0)
    out = ",".join("ABCDE"[:rank])
    inputs, held = (f"double{x} x", f"<double{w} w>") if constant else (f"double{x} x, double{w} w", "")
    assert_gradients(f"net ({inputs}) => (double[{out}] y) {held} {{ y = MatMul (x, w) }}", ["x", "w"])


@pytest.mark.parametrize(
    ("x", "w", "at"),
    [
        ("[N,3,4]", "[N,4,5]", ((2, 3, 4), (2, 4, 5))),
        ("[N,3,4]", "[K,4,5]", ((2, 3, 4), (1, 4, 5))),
        ("[N,K,S,4]", "[N,K,4,S]", ((2, 3, 5, 4), (2, 3, 4, 5))),
        ("[N,S,K]", "[K,5]", ((2, 3, 4), (4, 5))),
    ],
)
def test_matmul_of_symbolic_sizes(x: str, w: str, at: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=at[0]), "w": rng.normal(size=at[1])}
    out = ",".join("ABCDE"[: x.count(",") + 1])
    assert_gradients(
        f"net (double{x} x, double{w} w) => (double[{out}] y) {{ y = MatMul (x, w) }}", ["x", "w"], feeds
    )


EINSUMS = [
    ("ij,jk->ik", "[3,4]", "[4,5]"),
    ("bhid,bhjd->bhij", "[2,2,3,4]", "[2,2,5,4]"),
    ("...ij,jk->...ik", "[2,3,4]", "[4,5]"),
    ("...ij,...jk->...ik", "[2,3,3,4]", "[2,3,4,5]"),
    ("ij,kj", "[3,4]", "[5,4]"),
    ("ijm,jk->ik", "[3,4,2]", "[4,5]"),
    ("i,j->ij", "[3]", "[4]"),
    ("bij,bjk->ki", "[2,3,4]", "[2,4,5]"),
]


@pytest.mark.parametrize(("equation", "x", "w"), EINSUMS)
def test_einsum(equation: str, x: str, w: str) -> None:
    inner = equation.partition("->")[2] or "ik"
    out = ",".join("ABCDE"[: 4 if equation == "...ij,...jk->...ik" else len(inner.replace("...", "z"))])
    assert_gradients(
        f'net (double{x} x) => (double[{out}] y) <double{w} w> {{ y = Einsum <equation="{equation}"> (x, w) }}',
        ["x", "w"],
    )


def test_einsum_that_is_no_product_is_refused_by_name() -> None:
    with pytest.raises(GradientError, match="repeats an index"):
        assert_gradients('net (double[3,3] x) => (double[A] y) { y = Einsum <equation="ii->i"> (x) }', ["x"])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax(op: str, axis: int) -> None:
    assert_gradients(f"net (double[2,3,4] x) => (double[2,3,4] y) {{ y = {op} <axis={axis}> (x) }}", ["x"])
