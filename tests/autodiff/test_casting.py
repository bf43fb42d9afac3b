"""Casts pass gradients between float types, and none through integers."""

import numpy as np
import pytest

from tests.autodiff.cases import Case, check, gradient

FLOAT, INT64, DOUBLE, FLOAT16 = 1, 7, 11, 10
CASES = [
    Case(f"c = Cast <to = {DOUBLE}> (x) d = Mul (c, c) y = CastLike (d, x)", {"x": (2, 3)}),
    Case("c = CastLike (x, z) y = Mul (c, z)", {"x": (2, 3), "z": (3,)}, dims={"x": "N,3"}),
    Case("y = CastLike (x, z)", {"x": (2, 3)}, {"z": 0.0}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_a_gradient_has_the_type_of_its_tensor() -> None:
    case = Case(f"c = Cast <to = {FLOAT16}> (x) d = Add (c, c) y = CastLike (d, x)", {"x": (2, 3)})
    found = gradient(case)["x"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 2 * np.random.default_rng(0).normal(size=(2, 3)), rtol=1e-3)


def test_nothing_flows_back_through_integers() -> None:
    found = gradient(Case(f"c = Cast <to = {INT64}> (x) d = CastLike (c, x) y = Add (d, x)", {"x": (2, 3)}))
    np.testing.assert_array_equal(found["x"], np.random.default_rng(0).normal(size=(2, 3)))
