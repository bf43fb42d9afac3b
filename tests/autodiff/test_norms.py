"""Division by the size of neighbours, across channels and along an axis."""

import numpy as np
import pytest

from tests.autodiff.cases import Case, check
from tests.autodiff.gradients import gradients_of

CASES = [
    Case("y = LRN <size = 3, alpha = 0.5, beta = 0.6, bias = 1.5> (x)", {"x": (2, 4, 2, 3)}),
    Case("y = LRN <size = 3, alpha = 0.9> (x)", {"x": (1, 5, 2, 2)}, dims={"x": "N,5,H,W"}),
    Case("y = LRN <size = 5, alpha = 0.9> (x)", {"x": (1, 3, 2, 2)}, opset=13),
    Case("y = LpNormalization (x)", {"x": (2, 3)}),
    Case("y = LpNormalization <p = 1, axis = 1> (x)", {"x": (2, 3, 2)}, dims={"x": "N,M,2"}, opset=18),
    Case("y = LpNormalization <axis = 0> (x)", {"x": (3, 2)}, opset=22),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_a_window_of_even_size_reaches_further_forward_which_onnx_runtime_refuses() -> None:
    case = Case("y = LRN <size = 4, alpha = 0.9> (x)", {"x": (1, 5, 2, 2)})
    ours, expected = gradients_of(case.model(), case.feeds(), ["x"])
    np.testing.assert_allclose(ours["x"], expected["x"], rtol=1e-6, atol=1e-8)
