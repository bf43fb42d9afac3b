"""`canonicalize`: chains of bounds, hard sigmoid, hard swish."""

import numpy as np
import onnx
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import parse_model

CONSTANTS = """<float zero = {0}, float one = {1}, float three = {3}, float six = {6}, float minus = {-2},
    float[1] six1 = {6}, float sixth = {0.16666667}, float[2] pair = {1, 2}>"""


def bounds(graph: LpGraph) -> list[float | None]:
    (clip,) = graph.nodes("Clip")
    return [None if v is None else float(v.values) for v in clip.inputs[1:]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Relu (x)  y = Min (t, six)", [0, 6]),
        ("t = Max (x, zero)  y = Min (six1, t)", [0, 6]),
        ("t = Min (x, six)  y = Max (t, zero)", [0, 6]),
        ("t = Relu (x)  y = Clip (t, minus, six)", [0, 6]),
        ("t = Clip (x, minus, three)  y = Clip (t, one, six)", [1, 3]),
        ("t = Clip (x, minus, zero)  y = Clip (t, one, six)", [1, 1]),
        ("y = Max (x, minus)", [-2]),
        ("y = Min (x, one)", [None, 1]),
    ],
)
def test_one_clip_for_a_chain(body: str, expected: list[float | None]) -> None:
    graph, _ = rewrite(Canonicalize(), f"m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS} {{ {body} }}")
    assert graph.ops() == ["Clip"]
    assert bounds(graph) == expected


@pytest.mark.parametrize("body", ["y = Max (zero, x)", "y = Clip (x, zero)", "t = Relu (x)  y = Relu (t)"])
def test_a_lower_bound_of_zero_is_relu(body: str) -> None:
    graph, _ = rewrite(Canonicalize(), f"m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS} {{ {body} }}")
    assert graph.ops() == ["Relu"]


@pytest.mark.parametrize("body", ["b = Max (far, a)", "b = Max (a, far)", "b = Clip (a, far)"])
def test_a_bound_that_bounds_nothing_hands_on_what_it_bounds(body: str) -> None:
    model = parse_model(
        f"m (float[3, 40] x) => (float[3, 40] y) <float far = {{-1}}> {{ a = Neg (x)  {body}  y = Exp (b) }}"
    )
    model.graph.initializer[0].float_data[:] = [-np.inf]
    graph, _ = rewrite(Canonicalize(), model)
    assert graph.ops() == ["Neg", "Exp"]


def test_bounds_as_attributes_before_opset_eleven() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[3, 40] x) => (float[3, 40] y) { t = Relu (x)  y = Clip <max = 6.0> (t) }""",
        opset=9,
    )
    (clip,) = graph.nodes()
    assert (clip.op, clip.attrs["min"], clip.attrs["max"]) == ("Clip", 0.0, 6.0)


@pytest.mark.parametrize(
    "model",
    [
        "m (float[4] x) => (float[4] y) <float[4] b> { y = Max (x, b) }",
        "m (float[4] x, float[4] z) => (float[4] y) { y = Max (x, z) }",
        "m (float[4] x) => (float[1, 4] y) <float[1, 1] zero = {0}> { y = Max (x, zero) }",
        "m (int64[4] x) => (int64[4] y) <int64 zero = {0}> { y = Max (x, zero) }",
        "m (float[4] x) => (float[4] y, float[4] t) <float six = {6}> { t = Relu (x)  y = Clip (t, , six) }",
        "m (float[4] x) => (float[4] y) <float one = {1}, float six = {6}> { y = Clip (x, one, six) }",
    ],
)
def test_what_is_no_chain_of_bounds(model: str) -> None:
    assert left_alone(Canonicalize(), model) == []


def test_a_result_that_a_body_reads_keeps_its_name() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[4] x, bool c) => (float[4] y) <float six = {6}> {
            r = Relu (x)
            u = Min (r, six)
            y = If (c) <then_branch = g1 () => (float[4] a) { a = Neg (u) },
                        else_branch = g2 () => (float[4] b) { b = Exp (u) }> }""",
    )
    assert graph.ops() == ["Clip", "If"]


def test_bounds_that_are_fed_stay() -> None:
    reasons = left_alone(Canonicalize(), "m (float[4] x, float low) => (float[4] y) { y = Clip (x, low) }")
    assert reasons == ["its bounds are not constant"]


def test_double_has_no_clip_before_opset_twelve() -> None:
    reasons = left_alone(
        Canonicalize(), "m (double[4] x) => (double[4] y) <double one = {1}> { y = Max (x, one) }", opset=11
    )
    assert reasons == ["Clip takes float32 only before opset 12"]


def test_an_unknown_type_stays() -> None:
    model = """<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
        m (float[4] x) => (float[4] y) { t = custom.Unknown (x)  u = Relu (t)  y = Relu (u) }"""
    graph = LpGraph.from_proto(onnx.parser.parse_model(model))
    report = Canonicalize().run(graph, CONTEXT)
    assert [skip.reason for skip in report.skips] == ["its element type is not known to be a float"]


SWISH = [
    "s = Add (x, three)  c = Clip (s, zero, six)  p = Mul (x, c)  y = Div (p, six)",
    "s = Add (three, x)  r = Relu (s)  c = Min (r, six)  p = Mul (c, x)  y = Mul (sixth, p)",
    "s = Add (x, three)  c = Clip (s, zero, six)  h = Div (c, six)  y = Mul (h, x)",
    "s = Add (x, three)  c = Clip (s, zero, six)  d = Div (x, six)  y = Mul (d, c)",
    "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (x, h)",
]


@pytest.mark.parametrize("body", SWISH)
def test_hard_swish_in_parts(body: str) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS} {{ {body} }}",
        rtol=1e-6,
        feeds=wide(),
    )
    assert graph.ops() == ["HardSwish"]


def test_hard_sigmoid_in_parts() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS}
        {{ s = Add (x, three)  c = Clip (s, zero, six)  y = Div (c, six) }}""",
        rtol=1e-6,
        feeds=wide(),
    )
    assert graph.ops() == ["HardSigmoid"]


@pytest.mark.parametrize(
    "body",
    [
        "s = Add (x, three)  c = Clip (s, zero, six)  p = Mul (s, c)  y = Div (p, six)",
        "s = Add (x, three)  c = Clip (s, one, six)  y = Div (c, six)",
        "s = Add (x, one)  c = Clip (s, zero, six)  y = Div (c, six)",
        "s = Add (x, three)  c = Clip (s, zero, six)  y = Div (six, c)",
        "s = Add (x, three)  c = Clip (s, zero, six)  y = Div (c, three)",
        "h = HardSigmoid (x)  y = Mul (x, h)",
        "h = Sigmoid (x)  y = Mul (x, h)",
    ],
)
def test_what_resembles_a_hard_swish(body: str) -> None:
    model = f"m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS} {{ {body} }}"
    assert left_alone(Canonicalize(), model) == []


def test_hard_swish_needs_opset_fourteen() -> None:
    graph, report = rewrite(
        Canonicalize(), f"m (float[3, 40] x) => (float[3, 40] y) {CONSTANTS} {{ {SWISH[0]} }}", opset=13
    )
    assert [skip.reason for skip in report.skips] == ["HardSwish needs opset 14"]
    assert graph.ops() == ["Add", "Clip", "Mul", "Div"]


def test_hard_sigmoid_of_doubles_stays() -> None:
    reasons = left_alone(
        Canonicalize(),
        """
        m (double[3, 40] x) => (double[3, 40] y) <double zero = {0}, double three = {3}, double six = {6}>
        { s = Add (x, three)  c = Clip (s, zero, six)  y = Div (c, six) }""",
    )
    assert reasons == ["HardSigmoid takes float16 and float32 only"]


def wide() -> dict[str, np.ndarray]:
    """Inputs on both sides of the knees at -3 and 3."""
    return {"x": np.linspace(-5, 5, 120, dtype=np.float32).reshape(3, 40)}
