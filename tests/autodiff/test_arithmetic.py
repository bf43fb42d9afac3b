"""Arithmetic, with operands broadcast in every way."""

import pytest

from lpcompile.errors import GradientError
from tests.autodiff.cases import Case, Given, check, gradient

BROADCAST: list[dict[str, Given]] = [
    {"x": (2, 3), "z": (2, 3)},
    {"x": (2, 3), "z": (3,)},
    {"x": (2, 1), "z": (3, 1, 4)},
    {"x": (2, 3), "z": ()},
]
CASES = [
    *(
        Case(f"y = {op} (x, z)", shapes, draw="positive")
        for op in ("Add", "Sub", "Mul", "Div")
        for shapes in BROADCAST
    ),
    *(
        Case(f"y = {op} (x, z)", {"x": (2, 3), "z": (1, 3)}, dims={"x": "N,3", "z": "M,3"}, draw="positive")
        for op in ("Add", "Sub", "Mul", "Div")
    ),
    Case("y = Mul (x, z)", {"x": (2, 3)}, {"z": (3,)}, wanted=("z",)),
    Case("y = Div (x, x)", {"x": (2, 3)}, draw="positive"),
    Case("y = Sum (x, z, w)", {"x": (2, 3), "z": (3,), "w": (2, 1)}),
    Case("y = Sum (x)", {"x": (2, 3)}),
    Case("y = Mean (x, z, w)", {"x": (2, 3), "z": (3,), "w": (2, 1)}, dims={"x": "N,3", "w": "N,1"}),
    Case("y = Mod <fmod = 1> (x, z)", {"x": [[5.3, -4.1, 0.4], [7.7, 2.2, -9.5]], "z": [[1.5], [-2.0]]}),
    Case("y = Neg (x)", {"x": (2, 3)}),
    Case("y = Identity (x)", {"x": (2, 3)}),
    Case("y = Dropout (x)", {"x": (2, 3)}),
    Case("y, m = Dropout (x, r)", {"x": (2, 3)}, {"r": 0.4}),
    Case("y = Dropout (x, r, t)", {"x": (2, 3)}, {"r": 0.4, "t": False}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_dropout_that_drops_is_refused() -> None:
    case = Case("y = Dropout (x, r, t)", {"x": (2, 3)}, {"r": 0.4, "t": True})
    with pytest.raises(GradientError, match="training mode") as caught:
        gradient(case)
    assert caught.value.hint == "export the model for inference"
