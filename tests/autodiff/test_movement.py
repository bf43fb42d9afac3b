"""The same elements in another order or shape, or several times."""

import pytest

from tests.autodiff.cases import Case, check

X = {"x": (2, 3, 4)}
UNKNOWN = {"x": "N,M,K"}
CASES = [
    Case("y = Reshape (x, s)", X, {"s": [4, -1]}),
    Case("y = Reshape (x, s)", {**X, "s": [0, 12]}, dims={**UNKNOWN, "s": "2"}),
    Case("y = Flatten (x)", X, dims={"x": "N,3,4"}),
    Case("y = Flatten <axis = 2> (x)", X),
    Case("y = Transpose (x)", X, dims=UNKNOWN),
    Case("y = Transpose <perm = [1, 2, 0]> (x)", X),
    Case("y = Squeeze (x)", {"x": (2, 1, 3, 1)}),
    Case("y = Squeeze (x, a)", {"x": (2, 1, 3, 1)}, {"a": [-1]}, dims={"x": "N,1,M,1"}),
    Case("y = Unsqueeze (x, a)", X, {"a": [0, -1]}, dims=UNKNOWN),
    Case("y = Expand (x, s)", {"x": (3, 1)}, {"s": [2, 1, 4]}),
    Case("y = Expand (x, s)", {"x": (3, 1), "s": [2, 3, 4]}, dims={"x": "N,M", "s": "K"}),
    Case("y = Tile (x, r)", X, {"r": [2, 1, 3]}),
    Case("y = Tile (x, r)", X, {"r": [1, 1, 1]}),
    Case("y = Tile (x, r)", X, {"r": [2, 1, 3]}, dims=UNKNOWN),
    Case("y = Tile (x, r)", {**X, "r": [2, 1, 3]}, dims={**UNKNOWN, "r": "3"}),
    Case("y = DepthToSpace <blocksize = 2> (x)", {"x": (1, 8, 2, 3)}),
    Case('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {"x": (1, 8, 2, 3)}),
    Case('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {"x": (1, 8, 2, 3)}, dims={"x": "N,8,H,W"}),
    Case("y = SpaceToDepth <blocksize = 2> (x)", {"x": (1, 2, 4, 6)}, dims={"x": "N,2,H,W"}),
    Case("y = Trilu (x)", X),
    Case("y = Trilu <upper = 0> (x, k)", X, {"k": -1}),
    Case("y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, l)", X, {"l": [2, 3]}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)
