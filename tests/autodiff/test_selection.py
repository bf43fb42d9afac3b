"""Operators that choose between numbers."""

import numpy as np
import pytest

from tests.autodiff.cases import Case, check, gradient

X = {"x": (3, 4)}
CASES = [
    Case("y = Where (c, x, z)", {"x": (2, 3), "z": (3,), "c": [[True], [False]]}),
    Case("y = Where (c, x, z)", {"x": (1, 3), "z": (), "c": [[True, False, True], [False, False, True]]}),
    Case(
        "y = Where (c, x, z)",
        {"x": (2, 3), "z": (2, 3), "c": [[True], [False]]},
        dims={"x": "N,M", "c": "K,1"},
    ),
    Case("y = Clip (x, lo, hi)", {**X, "lo": -0.5, "hi": 0.7}),
    Case("y = Clip (x, lo, hi)", X, {"lo": -0.5, "hi": 0.7}),
    Case("y = Clip (x, lo)", {**X, "lo": -0.5}, dims={"x": "N,4"}),
    Case("y = Clip (x, , hi)", {**X, "hi": 0.7}),
    Case("y = Clip (x)", X),
    Case("y = PRelu (x, s)", {"x": (2, 3, 2), "s": (3, 1)}),
    Case("y = PRelu (x, s)", {"x": (2, 3)}, {"s": (1,)}, dims={"x": "N,M"}, wanted=("x", "s")),
    *(
        Case(f"y = {op} ({', '.join(shapes)})", shapes)
        for op in ("Min", "Max")
        for shapes in ({"x": (2, 3)}, {"x": (2, 3), "z": (3,)}, {"x": (2, 3), "z": (3,), "w": (2, 1)})
    ),
    Case("y = Max (x, z)", {"x": (2, 3)}, {"z": 0.0}, dims={"x": "N,M"}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("op", ["Min", "Max"])
@pytest.mark.parametrize("count", [2, 3])
def test_equal_operands_share_the_gradient(op: str, count: int) -> None:
    names = ["x", "z", "w"][:count]
    found = gradient(Case(f"y = {op} ({', '.join(names)})", {n: [1.0, 2.0] for n in names}))
    total = np.random.default_rng(0).normal(size=2)  # the gradient of y, see gradients_of
    for name in names:
        np.testing.assert_allclose(found[name], total / count, rtol=1e-12)


def test_a_clipped_element_at_a_bound_has_no_gradient() -> None:
    found = gradient(Case("y = Clip (x, lo, hi)", {"x": [-1.0, 0.0, 0.5, 1.0, 3.0]}, {"lo": 0.0, "hi": 1.0}))
    np.testing.assert_array_equal(found["x"] != 0, [False, False, True, False, False])
