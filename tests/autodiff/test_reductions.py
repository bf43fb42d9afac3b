"""Reductions: axes as attribute and as input, kept and dropped, none, known at run time only."""

import numpy as np
import pytest

from tests.autodiff.cases import Case, check, gradient

X = {"x": (2, 3, 4)}
OPS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceProd",
)  # fmt: skip


def _cases(op: str) -> list[Case]:
    draw = "positive" if op == "ReduceLogSum" else "normal"
    found = [
        Case(f"y = {op} <keepdims = 0> (x, a)", X, {"a": [-1, 0]}, opset=18, draw=draw),
        Case(f"y = {op} (x, a)", X, {"a": [1]}, opset=18, draw=draw, dims={"x": "N,3,M"}),
        Case(f"y = {op} <keepdims = 0> (x, a)", {**X, "a": [1, 2]}, opset=18, draw=draw, dims={"a": "K"}),
        Case(f"y = {op} <keepdims = 0> (x)", X, opset=18, draw=draw, dims={"x": "N,?,4"}),
        Case(f"y = {op} <noop_with_empty_axes = 1> (x, a)", X, {"a": [2]}, opset=18, draw=draw),
    ]
    if op == "ReduceSum":
        return [*found, Case(f"y = {op} <keepdims = 0> (x, a)", X, {"a": [1]}, opset=13)]
    return [
        *found,
        Case(f"y = {op} <axes = [-2], keepdims = 0> (x)", X, opset=13, draw=draw),
        Case(f"y = {op} <axes = [0, 2]> (x)", X, opset=17, draw=draw, dims={"x": "N,3,M"}),
        Case(f"y = {op} (x)", X, opset=17, draw=draw),
    ]


CASES = [
    *(case for op in OPS for case in _cases(op)),
    Case("y = ReduceMean <noop_with_empty_axes = 1> (x)", X, opset=18),
    Case("y = ReduceSum <noop_with_empty_axes = 1, keepdims = 0> (x)", X),
    Case("y = CumSum (x, a)", X, {"a": 1}),
    Case("y = CumSum <exclusive = 1> (x, a)", X, {"a": -1}, dims={"x": "N,M,K"}),
    Case("y = CumSum <reverse = 1> (x, a)", X, {"a": 0}),
    Case("y = CumSum <exclusive = 1, reverse = 1> (x, a)", {**X, "a": 1}),
]


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("zeros", [1, 2])
def test_a_product_with_zeros_has_the_gradient_of_the_other_factors(zeros: int) -> None:
    x = [[3.0, 0.0, -2.0, 0.0 if zeros == 2 else 5.0]]
    check(Case("y = ReduceProd (x, a)", {"x": x}, {"a": [1]}, opset=18))


def test_equal_extremes_share_the_gradient() -> None:
    found = gradient(Case("y = ReduceMax (x, a)", {"x": [[1.0, 3.0, 3.0, 2.0]]}, {"a": [1]}, opset=18))["x"]
    assert found[0, 1] == found[0, 2] != 0
    np.testing.assert_array_equal(found[0, [0, 3]], 0)


def test_the_norm_of_zeros_has_gradient_zero() -> None:
    found = gradient(Case("y = ReduceL2 (x, a)", {"x": [[0.0, 0.0]]}, {"a": [1]}, opset=18))
    np.testing.assert_array_equal(found["x"], np.zeros((1, 2)))
