"""Graphs that users have and that broke a compilation once: scalars among the outputs, newer spellings."""

import warnings

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.analysis.inputs import random_feeds
from lpcompile.errors import InputError, TargetError, UnsupportedOpError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.random_operators import random_operators
from lpcompile.runtime.compare import compare
from lpcompile.runtime.session import Session
from tests.networks import Calls
from tests.support import parse_model, run_model


def normal_calls(*shape: int, count: int = 8) -> Calls:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def compiled(model: ModelProto, calls: Calls, recipe: str, least_db: float = 15.0) -> lpcompile.Artefacts:
    """Compile, and compare on a call that was not given."""
    made = lpcompile.compile(model, calibration=calls[:-1], recipe=recipe)
    found = compare([(run_model(model, calls[-1]), run_model(made.model, calls[-1]))]).sqnr_db
    assert found is not None
    assert found >= least_db
    return made


@pytest.mark.parametrize("opset", [18, 21, 24])
def test_a_classifier_with_a_softmax_of_a_newer_opset(opset: int) -> None:
    model = parse_model(
        """m (float[N,8] x) => (float[N,6] y) <float[8,16] a, float[16,6] b> {
        [one] t = MatMul (x, a)  u = Relu (t)  [two] v = MatMul (u, b)  y = Softmax (v) }""",
        opset=opset,
    )
    made = compiled(model, normal_calls(4, 8), "auto")
    assert not any("gradient" in w for w in made.report["warnings"])


def test_an_output_of_one_number() -> None:
    model = parse_model("""m (float[N,8] x) => (float[N,6] y, float size) <float[8,16] a, float[16,6] b> {
        [one] t = MatMul (x, a)  u = Relu (t)  [two] y = MatMul (u, b)
        size = ReduceSumSquare <keepdims = 0> (y) }""")
    made = compiled(model, normal_calls(4, 8), "npp")
    assert not any("gradient" in w for w in made.report["warnings"])


def test_weights_that_no_layer_reads_are_named() -> None:
    model = parse_model(
        "m (float[32,N] x) => (float[10,N] y) <float[64,32] a, float[10,64] b> { t = MatMul (a, x)  y = MatMul (b, t) }"
    )
    made = compiled(model, normal_calls(32, 4), "int8")
    (said,) = made.report["warnings"]
    assert (
        said == "10,752 bytes of weights stay as they are, since no layer reads them: 2 MatMul (on the left)"
    )


def test_layers_that_read_most_weights_leave_nothing_to_say() -> None:
    model = parse_model(
        "m (float[N,32] x) => (float[N,32] y) <float[32,32] a, float[1,32] b> { t = MatMul (x, a)  y = Mul (t, b) }"
    )
    assert compiled(model, normal_calls(4, 32), "int8").report["warnings"] == []


def test_weights_stored_in_bfloat16_are_weights_of_layers() -> None:
    model = parse_model(
        "m (float[N,32] x) => (float[N,10] y) <bfloat16[32,10] w> { f = Cast <to = 1> (w)  y = MatMul (x, f) }",
        check=False,
    )
    made = compiled(model, normal_calls(4, 32), "int8")
    assert [r["weight_format"] for r in made.report["layers"]] == ["int8"]


def test_an_input_without_a_shape_takes_its_samples_as_they_are() -> None:
    model = parse_model("m (float[N,32] x) => (float[N,10] y) <float[32,10] w> { y = MatMul (x, w) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    compiled(model, normal_calls(4, 32), "int8")
    assert Session(model).inputs[0].shape is None
    with pytest.raises(InputError, match="declares no shape"):
        random_feeds(Session(model).inputs, 0, {})
    assert random_feeds(Session(model).inputs, 0, {"x": (2, 32)})["x"].shape == (2, 32)


def test_an_input_of_one_number_is_told_from_one_without_a_shape() -> None:
    model = parse_model("m (float[N,32] x, float s) => (float[N,32] y) { y = Mul (x, s) }")
    assert [i.shape for i in Session(model).inputs] == [("N", 32), ()]


@pytest.mark.parametrize(
    ("output", "body", "message"),
    [
        ("float[8,6] w", "", "output 'w' is a constant"),
        ("seq(float[N,3]) parts", "parts = SplitToSequence <axis = 1> (y, half)", "is a seq"),
    ],
    ids=["constant", "sequence"],
)
def test_outputs_that_no_program_gives_are_refused_on_a_machine(output: str, body: str, message: str) -> None:
    model = parse_model(
        f"m (float[N,8] x) => (float[N,6] y, {output}) <float[8,6] w, int64 half = {{3}}>"
        f"{{ y = MatMul (x, w)  {body} }}"
    )
    with pytest.raises(TargetError, match=message):
        lpcompile.compile(model, target="cim", calibration=normal_calls(4, 8), recipe="int8")
    assert lpcompile.compile(model, calibration=normal_calls(4, 8), recipe="int8").report["layers"]


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_a_float16_network_whose_head_is_its_embedding_takes_no_more_bytes(recipe: str) -> None:
    weights = "float16[200,16] e, float16[16,32] a, float16[32,16] b"
    model = parse_model(f"""m (int64[N,S] t) => (float16[M,200] y) <{weights}, int64[2] s = {{-1, 16}}> {{
        h = Gather (e, t)  [one] u = MatMul (h, a)  r = Relu (u)  [two] d = MatMul (r, b)  z = Add (h, d)
        f = Reshape (z, s)  [head] y = Gemm <transB = 1> (f, e) }}""")
    rng = np.random.default_rng(0)
    calls = [{"t": rng.integers(0, 200, (2, 7))} for _ in range(8)]
    made = compiled(model, calls, recipe)
    sizes = made.report["verification"]["constant_bytes"]
    assert sizes["compiled"] < sizes["float"]
    assert {r["weight_format"] for r in made.report["layers"]} <= {"int8", "fixp4"}


@pytest.mark.parametrize("kind", ["double", "bfloat16"])
def test_an_operator_without_a_kernel_for_its_types_says_so(kind: str) -> None:
    model = parse_model(
        f"m ({kind}[N,3,8,8] x) => ({kind}[N,4,6,6] y) <{kind}[4,3,3,3] w> {{ y = Conv (x, w) }}", opset=22
    )
    with pytest.raises(UnsupportedOpError) as found:
        lpcompile.compile(model, recipe="int8")
    assert found.value.hint == "the runtime has it for other element types: export the model in float32"


@pytest.mark.parametrize(("recipe", "told"), [("int8", True), ("auto", True), ("fp32", False)])
def test_a_model_without_a_layer_is_told_from_a_quantised_one(recipe: str, told: bool) -> None:
    model = parse_model("m (float[N,8] x) => (float[N,8] y) { a = Relu (x)  y = Softmax (a) }")
    made = lpcompile.compile(model, calibration=normal_calls(4, 8), recipe=recipe)
    assert any(w.startswith("nothing is quantised") for w in made.report["warnings"]) == told


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("n = RandomNormalLike (t)  y = Add (t, n)", "1 RandomNormalLike"),
        ("y = Dropout (t, rate, on)", "1 Dropout in training mode"),
        ("y = Dropout (t, rate, off)", ""),
        ("y = Dropout (t)", ""),
    ],
)
def test_operators_that_draw_are_named(body: str, named: str) -> None:
    model = parse_model(
        f"m (float[N,8] x) => (float[N,6] y) <float[8,6] w, float rate = {{0.5}}, bool on = {{1}}, bool off = {{0}}>"
        f"{{ t = MatMul (x, w)  {body} }}"
    )
    found = random_operators(LpGraph.from_proto(model))
    assert (found or "") == (
        f"the model draws random numbers ({named}): SQNR and agreement hold their noise as well"
        if named
        else ""
    )
    warnings = lpcompile.compile(model, calibration=normal_calls(4, 8), recipe="int8").report["warnings"]
    assert (found in warnings) == bool(named)


def test_masks_and_empty_tensors_among_the_outputs_of_a_network_that_learns_its_codes() -> None:
    model = parse_model("""m (float[N,8] x) => (float[N,6] y, bool[N,16] mask, float[N,0] nothing)
        <float[8,16] a, float[16,6] b, int64[1] none = {0}, int64[1] last = {1}> {
        [one] t = MatMul (x, a)  u = Relu (t)  v, mask = Dropout (u)  [two] y = MatMul (v, b)
        nothing = Slice (y, none, none, last) }""")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = lpcompile.compile(model, calibration=normal_calls(4, 8), recipe="w4a8", effort=2)
    assert {r["weight_format"] for r in made.report["layers"]} == {"fixp4"}
