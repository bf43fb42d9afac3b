"""Powers, exponentials, magnitudes, trigonometric functions."""

import numpy as np
import pytest

from tests.autodiff.cases import Case, check, gradient

X = {"x": (2, 3)}
CASES = [
    *(
        Case(f"y = {op} (x)", X, draw="unit")
        for op in (
            "Exp",
            "Abs",
            "Sin",
            "Cos",
            "Tan",
            "Asin",
            "Acos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Atanh",
        )
    ),
    *(Case(f"y = {op} (x)", X, draw="positive") for op in ("Log", "Sqrt", "Reciprocal")),
    Case("y = Acosh (x)", {"x": [1.2, 2.5, 4.0]}),
    Case("y = Pow (x, p)", {"x": (2, 3), "p": (3,)}, draw="positive"),
    Case("y = Pow (x, p)", {"x": (2, 1), "p": (1, 3)}, dims={"x": "N,M", "p": "1,K"}, draw="positive"),
    *(Case("y = Pow (x, p)", X, {"p": p}, dims={"x": "N,3"}) for p in (0.0, 1.0, 2.0, 3.0)),
    Case("y = Pow (x, p)", X, {"p": [[-1.5]]}, draw="positive"),
    Case("y = Pow (x, p)", X, {"p": 0.5}, draw="positive"),
    Case("y = Pow (x, p)", X, {"p": 2}),
    Case("y = Pow (x, p)", X, {"p": [2, 0, 3]}),
    Case("y = Pow (x, p)", {"x": (3,)}, {"p": [[2.0]]}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_a_power_at_zero_has_a_finite_gradient() -> None:
    found = gradient(Case("y = Pow (x, p)", {"x": [0.0, 0.0, 0.0], "p": [0.0, 1.0, 2.0]}))
    np.testing.assert_array_equal(found["x"] == 0, [True, False, True])
    np.testing.assert_array_equal(found["p"], np.zeros(3))


@pytest.mark.parametrize("text", ["y = Sqrt (x)", "y = Pow (x, p)"])
def test_a_root_of_zero_passes_no_gradient_and_its_neighbours_theirs(text: str) -> None:
    """Magnitudes of spectra end in one: PyTorch's norm has gradient 0 there, too."""
    given = {"p": 0.5} if "Pow" in text else {}
    found = gradient(Case(text, {"x": [0.0, 0.25, 4.0]}, given))["x"]
    assert found[0] == 0
    ones = gradient(Case(text, {"x": [1.0, 0.25, 4.0]}, given))["x"]
    np.testing.assert_array_equal(found[1:], ones[1:])


def test_a_fractional_power_of_zero_passes_no_gradient() -> None:
    found = gradient(Case("y = Pow (x, p)", {"x": [0.0, 8.0]}, {"p": 1 / 3}))["x"]
    assert found[0] == 0
    assert found[1] != 0
