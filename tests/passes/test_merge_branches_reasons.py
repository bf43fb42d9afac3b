"""`merge-branches`: every reason for leaving a branch alone."""

import numpy as np
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes import conv_branches as branches
from lpcompile.passes import conv_taps
from lpcompile.passes.merge_branches import (
    CHANNELS,
    COARSE,
    GROWS,
    KEPT,
    NORM_BEFORE,
    NOT_FINITE,
    SIZES,
    STRIDES,
    MergeBranches,
)
from lpcompile.pipeline import PassContext
from lpcompile.plan import WeightPlan
from tests.passes.rewriting import left_alone
from tests.passes.test_merge_branches import BN, CONSTANTS, POINT, SQUARE, model
from tests.support import parse_model

POOL = "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>"


def reasons(text: str) -> list[str]:
    return left_alone(MergeBranches(), text)


def test_a_result_that_is_used_elsewhere() -> None:
    body = f"{SQUARE} {POINT} t = Relu (p) s = Add (a, p) y = Add (s, t)"
    assert reasons(model(body)) == [branches.SHARED]
    body = f"{SQUARE} {BN} t = Relu (n) s = Add (a, n) y = Add (s, t)"
    assert reasons(model(body)) == [branches.SHARED]


def test_a_result_that_the_caller_reads() -> None:
    text = model(f"{SQUARE} {POINT} y = Add (a, p)").replace(
        "float[1,4,6,6] y", "float[1,4,6,6] y, float[1,4,6,6] p"
    )
    assert reasons(text) == [branches.SHARED]


def test_a_norm_before_the_padding() -> None:
    body = f"{POINT} {BN} a = Conv <pads = [1, 1, 1, 1]> (n, w) y = Add (a, p)"
    assert reasons(model(body)) == [NORM_BEFORE]
    body = f"{BN} a = Conv <pads = [1, 1, 1, 1]> (n, w) y = Add (a, x)"
    assert reasons(model(body)) == [NORM_BEFORE]


def test_other_strides() -> None:
    body = "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w) p = Conv (x, v) y = Add (a, p)"
    found = reasons(model(body, "float[4,4,3,3] w, float[4,4,4,4] v", y="1,4,3,3"))
    assert found == [STRIDES.format("Conv_1"), STRIDES.format("Conv_0")]


def test_other_channels() -> None:
    body = "a = Conv <pads = [1, 1, 1, 1]> (x, w) p = Conv (x, v) y = Add (a, p)"
    found = reasons(model(body, "float[4,4,3,3] w, float[1,4,1,1] v"))
    assert CHANNELS.format("Conv_0") in found


@pytest.mark.parametrize(("x", "y"), [("1,4,H,W", "1,4,a,b"), ("1,4,3,3", "1,4,2,2")])
def test_padding_that_does_not_fit(x: str, y: str) -> None:
    """Of odd sizes one has a row less than the other: a single one is broadcast."""
    body = "a = Conv <strides = [2, 2]> (x, w) p = Conv <strides = [2, 2]> (x, v) y = Add (a, p)"
    found = reasons(model(body, "float[4,4,2,2] w, float[4,4,1,1] v", x=x, y=y))
    assert found == [SIZES.format("Conv_1"), SIZES.format("Conv_0")]


def test_more_weights() -> None:
    body = "a = Conv (x, v) d = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w) y = Add (a, d)"
    found = reasons(model(body, "float[4,4,1,1] v, float[4,1,3,3] w"))
    assert found == [GROWS.format("Conv_1"), GROWS.format("Conv_0")]


def test_a_layer_that_is_kept_float() -> None:
    graph = LpGraph.from_proto(parse_model(model(f"{SQUARE} [point] {POINT} y = Add (a, p)")))
    report = MergeBranches().run(graph, PassContext(keep_float=frozenset({"point"})))
    assert [(s.node, s.reason) for s in report.skips] == [("point", KEPT)]
    assert not report.changes


def test_weights_that_would_not_be_finite() -> None:
    before = parse_model(
        model("a = Conv (x, v) p = Conv (x, v2) y = Add (a, p)", "float[4,4,1,1] v, float[4,4,1,1] v2")
    )
    for tensor in before.graph.initializer:
        tensor.raw_data = np.full((4, 4, 1, 1), 3e38, np.float32).tobytes()
    graph = LpGraph.from_proto(before)
    report = MergeBranches().run(graph, PassContext())
    assert not report.changes
    assert NOT_FINITE.format("Conv_1") in [s.reason for s in report.skips]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group32"])
def test_rows_that_would_be_rounded_more_coarsely(granularity: str) -> None:
    """One tap of 1 beside weights of some .3, and a norm that scales it by a thousandth."""
    context = PassContext(weights=WeightPlan("fixp4", granularity))
    body = f"{SQUARE} t = Mul (x, c) s = Add (a, t) u = Mul (x, k) y = Add (s, u)"
    text = model(body, f"{CONSTANTS}, float c = {{8.0}}, float k = {{0.001}}")
    graph = LpGraph.from_proto(parse_model(text))
    report = MergeBranches(most_loss_db=3.0).run(graph, context)
    assert len(report.changes) == 1
    assert [s.reason for s in report.skips] == [COARSE.format("Conv_0")]
    assert not MergeBranches(most_loss_db=3.0).run(graph, context).changes
    assert MergeBranches(most_loss_db=40.0).run(graph, context).changes


def test_convolutions_merge_whatever_that_does_to_rows() -> None:
    graph = LpGraph.from_proto(parse_model(model(f"{SQUARE} {POINT} s = Add (a, p) y = Add (s, x)")))
    report = MergeBranches(most_loss_db=0.01).run(graph, PassContext())
    assert graph.ops() == ["Conv", "Add"]
    assert [(s.node, s.reason) for s in report.skips] == [("x", COARSE.format("Conv_0"))]


@pytest.mark.parametrize(
    "wrong", [{"group": 3}, {"group": 0}, {"pads": [1, 1]}, {"strides": [1]}, {"dilations": [1]}]
)
def test_attributes_that_no_kernel_has(wrong: dict[str, object]) -> None:
    graph = LpGraph.from_proto(parse_model(model(f"[point] {POINT} {SQUARE} y = Add (a, p)")))
    for key, value in wrong.items():
        graph.node("point").set_attr(key, value)
    report = MergeBranches().run(graph, PassContext())
    assert [s.reason for s in report.skips] == [conv_taps.MALFORMED]


REFUSED = {
    conv_taps.AUTO_PAD: """a = Conv <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)
        p = Conv <strides = [2, 2]> (x, v) y = Add (a, p)""",
    branches.NO_CONSTANT_MEAN: f"""{SQUARE} m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
        y = Add (a, m)""",
    branches.SHIFTED: f"{SQUARE} {BN} m = {POOL} (n) y = Add (a, m)",
    branches.TWO_MEANS: f"{SQUARE} m = {POOL} (x) n = {POOL} (m) y = Add (a, n)",
    branches.NO_NORM: f"{SQUARE} t = Div (scale4, x) y = Add (a, t)",
    "its constant is not one number a channel": f"{SQUARE} t = Mul (x, full) y = Add (a, t)",
    "the weight of Conv_2 is not a float constant": f"k = Relu (v) {SQUARE} p = Conv (x, k) y = Add (a, p)",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_branches_that_are_no_constant_convolutions(reason: str) -> None:
    y = "1,4,3,3" if reason == conv_taps.AUTO_PAD else "1,4,6,6"
    assert reason in reasons(model(REFUSED[reason], f"{CONSTANTS}, float[1,4,6,6] full", y=y))


def test_a_residual_sum_of_something_else_is_not_mentioned() -> None:
    assert reasons(model(f"{SQUARE} r = Relu (a) c = Conv (r, v) y = Add (c, x)")) == []
