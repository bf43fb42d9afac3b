"""`canonicalize`: Einsum of a tensor and constant weights."""

import numpy as np
import pytest

from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import left_alone, rewrite
from tests.quantizing import quantized


@pytest.mark.parametrize(
    ("equation", "x", "w", "ops"),
    [
        ("btd,de->bte", "N,5,6", "6,7", ["MatMul"]),
        ("...d,de->...e", "N,5,6", "6,7", ["MatMul"]),
        ("btd,ed->bte", "N,5,6", "7,6", ["MatMul"]),
        ("btd, dhe -> bthe", "N,5,6", "6,2,3", ["MatMul", "Reshape"]),
        ("btd,dhe->bhte", "N,T,6", "6,2,3", ["MatMul", "Reshape", "Transpose"]),
        ("bhte,hed->btd", "N,2,T,3", "2,3,6", ["Transpose", "Reshape", "MatMul"]),
        ("bthe,ehd->btd", "N,T,2,3", "3,2,6", ["Reshape", "MatMul"]),
        ("nchw,oc->nohw", "N,3,4,5", "6,3", ["Transpose", "MatMul", "Transpose"]),
    ],
)
def test_products_are_matrix_products(equation: str, x: str, w: str, ops: list[str]) -> None:
    rank = equation.replace("...", "bt").partition("->")[2].strip()
    graph, _ = rewrite(
        Canonicalize(),
        f"""m (float[{x}] x) => (float[{",".join(f"y{c}" for c in rank)}] y) <float[{w}] w>
        {{ y = Einsum <equation = "{equation}"> (x, w) }}""",
        rtol=1e-5,
    )
    assert graph.ops() == ops
    assert len(graph.layers()) == 1


def test_the_constant_may_come_first() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """m (float[N,5,6] x) => (float[a,b,c] y) <float[7,6] w>
        { y = Einsum <equation = "ed,btd->bte"> (w, x) }""",
        rtol=1e-5,
    )
    assert graph.ops() == ["MatMul"]


@pytest.mark.parametrize(
    ("equation", "x", "w", "y"),
    [
        ("bhd,hde->bhe", "2,3,4", "3,4,5", "2,3,5"),  # a matrix for each head
        ("bd,e->bde", "2,3", "4", "2,3,4"),  # nothing is summed over
        ("btd,de->be", "2,3,4", "4,5", "2,5"),  # an axis of x alone is
        ("bd,def->be", "2,3", "3,4,5", "2,4"),  # one of w alone is
        ("bdd,de->be", "2,3,3", "3,4", "2,4"),
        ("bd,d->b", "2,3", "3", "2"),
        ("btd,de", "2,3,4", "4,5", "2,5,3"),
    ],
)
def test_other_products_are_left_alone(equation: str, x: str, w: str, y: str) -> None:
    left_alone(
        Canonicalize(),
        f"""m (float[{x}] x) => (float[{y}] y) <float[{w}] w>
        {{ y = Einsum <equation = "{equation}"> (x, w) }}""",
    )


def test_sizes_that_are_not_known_may_be_one_and_broadcast() -> None:
    (reason,) = left_alone(
        Canonicalize(),
        """m (float[2,D] x) => (float[2,4] y) <float[3,4] w>
        { y = Einsum <equation = "bd,de->be"> (x, w) }""",
        feeds={"x": np.array([[2.0], [3.0]], np.float32)},
    )
    assert reason == "sizes of what is summed over are not known"


def test_projections_of_attention_are_quantised() -> None:
    found = quantized(
        """m (float[2,5,16] x) => (float[2,2,5,8] y) <float[16,2,8] w>
        { y = Einsum <equation = "btd,dhe->bhte"> (x, w) }"""
    )
    assert found.layer("MatMul").tensor is not None
    assert found.sqnr_db() > 30
