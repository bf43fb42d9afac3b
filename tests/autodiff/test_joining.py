"""Concat and Split."""

import pytest

from lpcompile.errors import GradientError
from tests.autodiff.cases import Case, check, gradient

CASES = [
    Case("y = Concat <axis = 1> (x, z)", {"x": (2, 3), "z": (2, 1)}),
    Case("y = Concat <axis = -2> (x, z, x)", {"x": (1, 3), "z": (2, 3)}, opset=13),
    Case("y = Concat <axis = 1> (x, z)", {"x": (2, 3)}, {"z": (2, 2)}),
    Case("y = Concat <axis = 1> (x, z)", {"x": (2, 3), "z": (2, 1)}, dims={"x": "N,M", "z": "N,K"}),
    Case("y = Concat <axis = 0> (x)", {"x": (2, 3)}),
    Case("y, z = Split (x)", {"x": (4, 3)}, outputs=("y", "z")),
    Case("y, z = Split <axis = -1> (x, s)", {"x": (2, 5)}, {"s": [1, 4]}, outputs=("y", "z"), opset=13),
    Case("y, z = Split (x, s)", {"x": (4, 3), "s": [1, 3]}, outputs=("y", "z"), dims={"x": "N,M", "s": "2"}),
    Case("y, z = Split <num_outputs = 2> (x)", {"x": (5, 3)}, outputs=("y", "z"), opset=18),
    Case("y, z = Split (x)", {"x": (4, 3)}),
    Case("z, y, w = Split <axis = 1> (x)", {"x": (2, 6)}, dims={"x": "N,6"}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_a_split_part_without_a_name_is_refused() -> None:
    case = Case("y, z, w = Split (x)", {"x": (6, 3)})
    model = case.model()
    model.graph.node[0].output[1] = ""
    with pytest.raises(GradientError, match="omitted output"):
        gradient(case, model)
