"""Reading and writing at indices, several times at the same one."""

import numpy as np
import pytest

from lpcompile.errors import GradientError
from tests.autodiff.cases import NARROW, Case, check, gradient
from tests.autodiff.gradients import reverse_mode, runtime

X = {"x": (4, 3, 2)}
UNKNOWN = {"x": "N,M,K"}
TWICE = [[1, -1], [1, 0]]
CASES = [
    *(
        Case(f"y = Gather <axis = {axis}> (x, i)", X, {"i": i}, dims=dims, opset=opset)
        for axis, opset in ((0, 13), (0, 16), (1, 13), (1, 18), (-1, 13), (-1, 17))
        for i, dims in (([1, 0, 1], {}), (TWICE, {}), (TWICE, UNKNOWN))
    ),
    *(
        Case("y = Gather <axis = 1> (x, i)", X, {"i": i}, dims=dims)
        for i in (0, -1, [1, 2], [-2, -1], [-1, 0])
        for dims in ({}, UNKNOWN)
    ),
    Case("y = Gather (x, i)", {**X, "i": TWICE}, dims={"i": "A,B"}),
    Case("y = Gather (x, i)", {**X, "i": TWICE}, dims={"i": "A,B"}, opset=13),
    *(
        Case("y = GatherElements <axis = 1> (x, i)", {"x": (2, 3)}, {"i": TWICE}, dims=dims, opset=opset)
        for dims in ({}, {"x": "N,M"})
        for opset in (13, 16)
    ),
    Case("y = GatherND (x, i)", X, {"i": [[1, 2], [-1, 0], [1, 2]]}),
    Case("y = GatherND <batch_dims = 1> (x, i)", {"x": (2, 3, 2)}, {"i": [[1], [2]]}, dims=UNKNOWN),
    Case("y = Compress <axis = 1> (x, c)", X, {"c": [True, False, True]}),
    Case("y = Compress (x, c)", {**X, "c": [False, True, True]}, opset=13),
    Case("y, i = TopK (x, k)", {"x": (3, 5)}, {"k": [2]}, dims={"x": "N,5"}),
    Case("y, i = TopK <axis = 0, largest = 0> (x, k)", {"x": (3, 5)}, {"k": [2]}, opset=13),
    Case(
        "y = ScatterElements <axis = 1> (x, i, u)",
        {"x": (2, 3), "u": (2, 2)},
        {"i": [[1, -1], [2, 0]]},
        opset=13,
    ),
    Case(
        'y = ScatterElements <axis = 1, reduction = "add"> (x, i, u)',
        {"x": (2, 3), "u": (2, 2)},
        {"i": [[1, 1], [2, 0]]},
        dims={"x": "N,3"},
    ),
    Case(
        "y = ScatterND (x, i, u)", {"x": (4, 3), "u": (2, 3)}, {"i": [[1], [3]]}, dims={"x": "N,M"}, opset=13
    ),
    Case(
        'y = ScatterND <reduction = "add"> (x, i, u)',
        {"x": (4, 3), "u": (3,)},
        {"i": [[1, 0], [3, 1], [1, 0]]},
    ),
]


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_indices_may_cover_a_part_of_the_other_axes() -> None:
    cases = [
        Case(
            "y = GatherElements <axis = -1> (x, i)",
            {"x": (3, 2)},
            {"i": TWICE},
            dims={"x": "N,2"},
            opset=opset,
        )
        for opset in (13, 16)
    ]
    old, new = (reverse_mode(c.model(NARROW), c.feeds(NARROW), ["x"], runtime)["x"] for c in cases)
    assert old is not None
    assert new is not None
    np.testing.assert_allclose(old, new, rtol=1e-6)
    np.testing.assert_array_equal(new[2], 0)


def test_sums_over_equal_positions_ask_for_a_scatter_that_adds() -> None:
    case = Case("y = GatherND (x, i)", X, {"i": [[1, 2], [1, 2]]}, opset=15)
    with pytest.raises(GradientError, match="from opset 16 on, the model has 15") as caught:
        gradient(case)
    assert caught.value.hint is not None
    assert "--opset" in caught.value.hint


def test_a_scatter_that_multiplies_is_refused() -> None:
    case = Case('y = ScatterND <reduction = "mul"> (x, i, u)', {"x": (4, 3), "u": (1, 3)}, {"i": [[1]]})
    with pytest.raises(GradientError, match="reduction 'mul'"):
        gradient(case)
