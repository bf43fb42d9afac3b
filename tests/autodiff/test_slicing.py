"""Slice and Pad: arguments as constants and at run time, of known and of unknown shapes."""

import numpy as np
import pytest

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.autodiff.cases import Case, check
from tests.support import parse_model

LAST, FIRST = 2**63 - 1, -(2**63) + 1
X = {"x": (5, 7)}
UNKNOWN = {"x": "N,M"}
CASES = [
    Case("y = Slice (x, s, e)", X, {"s": [1, 2], "e": [4, 100]}),
    Case("y = Slice (x, s, e, a)", X, {"s": [-3], "e": [LAST], "a": [-1]}, opset=13),
    Case("y = Slice (x, s, e, a, t)", X, {"s": [4, 1], "e": [-100, -1], "a": [0, 1], "t": [-2, 2]}),
    Case("y = Slice (x, s, e, a, t)", X, {"s": [LAST], "e": [FIRST], "a": [1], "t": [-1]}),
    Case("y = Slice (x, s, e, a, t)", X, {"s": [0], "e": [LAST], "a": [1], "t": [3]}, dims={"x": "N,7"}),
    Case("y = Slice (x, s, e, a, t)", X, {"s": [1], "e": [6], "a": [1], "t": [3]}),
    Case("y = Slice (x, s, e, a)", X, {"s": [1, -4], "e": [3, LAST], "a": [0, -1]}, dims=UNKNOWN),
    Case("y = Slice (x, s, e, a, t)", X, {"s": [0], "e": [LAST], "a": [1], "t": [2]}, dims=UNKNOWN),
    Case("y = Slice (x, s, e)", {**X, "s": [1, -4], "e": [3, 6]}, dims=UNKNOWN),
    Case("y = Slice (x, s, e, a)", {**X, "e": [5]}, {"s": [0], "a": [1]}, dims={"x": "N,7", "e": "1"}),
    Case("y = Slice (x, s, e, a)", {**X, "a": [1]}, {"s": [0], "e": [3]}),
    Case("y = Slice (x, s, e, a, t)", {**X, "t": [2]}, {"s": [0], "e": [6], "a": [1]}, opset=13),
    Case("z = Slice (x, s, e) y = Concat <axis = 0> (x, z)", X, {"s": [5], "e": [5]}),
    Case("y = Pad (x, p)", X, {"p": [1, 0, 0, 2]}, dims=UNKNOWN),
    Case("y = Pad (x, p, v)", {**X, "v": 0.5}, {"p": [1, 0, 0, 2]}, opset=13),
    Case("y = Pad (x, p)", X, {"p": [0, 0, 0, 0]}),
    Case("y = Pad (x, p, v, a)", X, {"p": [1, 2], "v": 0.5, "a": [-1]}, opset=18),
    Case("y = Pad (x, p, v)", {**X, "v": 0.5, "p": [1, 0, 0, 2]}, dims={**UNKNOWN, "p": "4"}),
    Case("y = Pad (x, p, v, a)", {**X, "v": 0.5, "p": [1, 2], "a": [-1]}, opset=18),
    *(
        Case(f'y = Pad <mode = "{mode}"> (x, p)', fed, {"p": pads}, dims=dims, opset=opset)
        for mode, opset in (("reflect", 13), ("edge", 17), ("wrap", 19))
        for fed, pads, dims in (
            ({"x": (3, 4)}, [1, 2, 2, 0], {}),
            ({"x": (2, 3, 2, 3)}, [0, 1, 0, 2, 0, 2, 1, 1], {"x": "N,3,2,3"}),
        )
    ),
    *(
        Case(f'y = Pad <mode = "{mode}"> (x, p)', {"x": (3, 4), **fed}, constants, dims=dims, opset=19)
        for mode in ("reflect", "edge", "wrap")
        for fed, constants, dims in (
            ({}, {"p": [1, 2, 2, 0]}, UNKNOWN),
            ({"p": [1, 2, 2, 0]}, {}, {"p": "4"}),
        )
    ),
]


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


def test_copies_at_the_ends_of_a_long_signal_take_no_matrix_of_its_length() -> None:
    graph = LpGraph.from_proto(
        parse_model('m (float[1,1,40000] x) => (float[1,1,40256] y) <int64[6] p = {0, 0, 128, 0, 0, 128}> '
                    '{ y = Pad <mode = "reflect"> (x, p) }')
    )  # fmt: skip
    graph.infer_shapes()
    seed = graph.add_input("seed", np.dtype(np.float32), (1, 1, 40256))
    add_gradients(graph, {"y": seed}, ["x"])
    assert max(v.values.size for v in graph.constants()) <= 128 * 128
