import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from lpcompile.errors import ModelError
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from lpcompile.runtime.reference import evaluate, run_node
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_layers import accumulate, exact_matmul, quantize_dynamically, requantize
from lpcompile.runtime.reference_weights import Rows, nibbles
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import (
    FLOAT_FORMATS,
    LAYERS,
    LUT4,
    SIDE_STORINGS,
    STORINGS,
    Array,
    Storing,
    call_results,
    compiled,
    plan_by_hand,
    quantized_layer,
)

EXPAND = "DequantizeWeights"
LUT4_CALL = "QuantGemm_w4_rows_float"
MATRICES = [name for name in LAYERS if not name.startswith("conv")]
SOME = [
    Storing(),
    Storing("nf4"),
    Storing("posit4", "group32", "ufloat8_e4m4"),
    Storing(LUT4, row_tables=True),
    SIDE_STORINGS[0],
]


def assert_exact(results: list[tuple[NodeProto, Array, Array]]) -> None:
    for node, found, wanted in results:
        assert found.dtype == wanted.dtype, node.op_type
        np.testing.assert_array_equal(found, wanted, err_msg=node.op_type)


# the arithmetic against slower definitions


@given(st.integers(1, 3000), st.integers(0, 2**31), st.booleans())
def test_matrix_products_are_exact_however_long_the_sums(k: int, seed: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    x = np.full((2, k), 255) if extreme else rng.integers(-255, 256, (2, k))
    w = np.full((3, k), -128) if extreme else rng.integers(-128, 128, (3, k))
    found = exact_matmul(x.astype(np.int16), w.astype(np.int8))
    np.testing.assert_array_equal(found, x.astype(np.int64) @ w.T.astype(np.int64))


@pytest.mark.parametrize("layer", [name for name in LAYERS if name.startswith("conv")])
def test_accumulators_are_those_of_the_float64_convolution(layer: str) -> None:
    node = parse_model(LAYERS[layer]).graph.node[0]
    model = parse_model(LAYERS[layer])
    rng = np.random.default_rng(1)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    wshape = next(list(t.dims) for t in model.graph.initializer if t.name == "w")
    x, w = rng.integers(0, 256, shape).astype(np.uint8), rng.integers(-128, 128, wshape).astype(np.int8)
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes["weight_shape"] = wshape
    acc, at, out = accumulate(
        Call("QuantConv", attributes), Rows(w.reshape(len(w), -1), np.ones(1, np.float32)), x, 17
    )
    found: Array = np.empty(out)
    found[at] = acc
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    conv.attribute.extend(node.attribute)
    feeds = {"x": x.astype(np.float64) - 17, "w": w.astype(np.float64)}
    (wanted,) = ReferenceEvaluator(conv).run(None, feeds)
    np.testing.assert_array_equal(found, wanted)


def test_requantisation_rounds_half_to_even_and_saturates() -> None:
    acc = np.array([[1, 3, 5, -1, -3, 1000, -1000]], np.float64)
    codes = requantize(acc, np.array([0.5], np.float32), 3, 255)
    np.testing.assert_array_equal(codes, [[3, 5, 5, 3, 1, 255, 0]])
    np.testing.assert_array_equal(
        requantize(acc, np.array([4], np.float32), 3, 15), [[7, 15, 15, 0, 0, 15, 0]]
    )


def test_requantisation_takes_the_accumulator_as_float32() -> None:
    acc = np.array([[2**24 + 1]], np.float64)  # float32 holds 2^24
    assert requantize(acc, np.array([100 / 2**24], np.float32), 0, 255) == 100


def test_nibbles_come_low_half_first() -> None:
    np.testing.assert_array_equal(nibbles(np.array([0x21, 0x43], np.uint8), 3), [1, 2, 3])


@pytest.mark.parametrize("x", [[-1.0, 0.5, 3.0], [1.0, 2.0], [-2.0, -1.0], [0.0, 0.0]])
def test_dynamic_quantisation_is_that_of_the_standard(x: list[float]) -> None:
    values = np.array(x, np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    codes, scale, zero = ReferenceEvaluator(node).run(None, {"x": values})
    found = quantize_dynamically(values)
    np.testing.assert_array_equal(found[0], codes)
    assert found[2] == zero
    if any(x):  # the standard leaves the scale of zeros to the runtime
        assert found[1] == scale


# the arithmetic against ONNX Runtime


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("storing", [*STORINGS, *SIDE_STORINGS], ids=str)
def test_integer_layers_equal_the_runtime(layer: str, storing: Storing) -> None:
    assert_exact(call_results(quantized_layer(layer, storing)))


@pytest.mark.sweep
@pytest.mark.parametrize("layer", MATRICES)
@pytest.mark.parametrize("storing", SOME, ids=str)
@pytest.mark.parametrize("kernel", [Kernel.FLOAT_OUT, Kernel.DYNAMIC])
def test_matrices_with_float_results_equal_the_runtime(layer: str, storing: Storing, kernel: Kernel) -> None:
    assert_exact(call_results(quantized_layer(layer, storing, kernel)))


@pytest.mark.parametrize("layer", ["conv", "gemm", "matmul-rank-3"])
@pytest.mark.parametrize("held", ["uint2", "uint4", "uint6"])
def test_outputs_held_to_fewer_bits_equal_the_runtime(layer: str, held: str) -> None:
    results = call_results(quantized_layer(layer, Storing("fixp4"), held=held))
    assert_exact(results)
    assert results[0][1].max() == (1 << int(held[4:])) - 1


@pytest.mark.sweep
@pytest.mark.parametrize("layer", ["conv", "conv-depthwise", "gemm", "matmul"])
@pytest.mark.parametrize(
    "storing",
    [*SOME, *(Storing(f) for f in FLOAT_FORMATS), Storing("float8_e4m3fn", scale_format="ufloat8_e4m4")],
    ids=str,
)
def test_expanded_weights_equal_the_runtime(layer: str, storing: Storing) -> None:
    assert_exact(call_results(quantized_layer(layer, storing, Kernel.WEIGHT_ONLY)))


@pytest.mark.sweep
@pytest.mark.parametrize("opset", [13, 15, 18, 19, 21, 23])
@pytest.mark.parametrize("layer", ["conv", "gemm", "matmul"])
def test_every_opset_gives_the_same_numbers(opset: int, layer: str) -> None:
    for storing in (Storing("int4", "group32", "ufloat8_e4m4"), SIDE_STORINGS[0]):
        assert_exact(call_results(quantized_layer(layer, storing, opset=opset, reduce_range=True)))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_float32_operations_is_that_of_the_runtime(seed: int) -> None:
    """Many numbers with scales of no special form: another order of multiplications would differ in a few."""
    rng = np.random.default_rng(seed)
    shape = (400, 64)
    feeds = {"x": rng.normal(0, rng.uniform(0.1, 9), shape).astype(np.float32)}
    for op in ("Gemm", "MatMul"):
        model = parse_model(
            f"g (float[400,64] x) => (float[400,48] y) <float[64,48] w> {{ y = {op} (x, w) }}", seed=seed
        )
        graph = plan_by_hand(LpGraph.from_proto(model), ["x", "y"], feeds=feeds)
        assert_exact(call_results(compiled(graph), feeds))


# elementwise work

SHAPE = "float[2,6,7,9]"
ELEMENTWISE = {
    "Add": f"({SHAPE} x, {SHAPE} z) => ({SHAPE} y) {{ y = Add (x, z) }}",
    "Add-broadcast": f"({SHAPE} x, float[6,1,1] z) => ({SHAPE} y) {{ y = Add (x, z) }}",
    "Mul": f"({SHAPE} x, {SHAPE} z) => ({SHAPE} y) {{ y = Mul (x, z) }}",
    "Mul-broadcast": f"({SHAPE} x, float[2,6,1,1] z) => ({SHAPE} y) {{ y = Mul (x, z) }}",
    "AveragePool": f"""({SHAPE} x) => (float[2,6,4,9] y) {{
        y = AveragePool <kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,1]> (x) }}""",
    "AveragePool-padding-counts": f"""({SHAPE} x) => (float[2,6,4,9] y) {{
        y = AveragePool <kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,1], count_include_pad=1> (x) }}""",
    "AveragePool-ceil": f"""({SHAPE} x) => (float[2,6,4,5] y) {{
        y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1> (x) }}""",
    "AveragePool-1d": """(float[2,6,11] x) => (float[2,6,5] y) {
        y = AveragePool <kernel_shape=[3], strides=[2]> (x) }""",
    "GlobalAveragePool": f"({SHAPE} x) => (float[2,6,1,1] y) {{ y = GlobalAveragePool (x) }}",
    "LeakyRelu": f"({SHAPE} x) => ({SHAPE} y) {{ y = LeakyRelu <alpha=0.13> (x) }}",
    "LeakyRelu-default": f"({SHAPE} x) => ({SHAPE} y) {{ y = LeakyRelu (x) }}",
    "Sigmoid": f"({SHAPE} x) => ({SHAPE} y) {{ y = Sigmoid (x) }}",
    "HardSwish": f"({SHAPE} x) => ({SHAPE} y) {{ y = HardSwish (x) }}",
    "HardSigmoid": f"({SHAPE} x) => ({SHAPE} y) {{ y = HardSigmoid <alpha=0.1666667, beta=0.5> (x) }}",
    "Tanh": f"({SHAPE} x) => ({SHAPE} y) {{ y = Tanh (x) }}",
    "Elu": f"({SHAPE} x) => ({SHAPE} y) {{ y = Elu <alpha=0.7> (x) }}",
}


@pytest.mark.parametrize("case", ELEMENTWISE)
@pytest.mark.parametrize("held", ["uint8", "uint4"])
def test_elementwise_kernels_are_within_one_step_and_rarely_differ(case: str, held: str) -> None:
    model = parse_model("g " + ELEMENTWISE[case])
    model.graph.node[0].name = "node"
    formats = {i.name: "uint8" for i in model.graph.input} | {"y": held}
    results = call_results(compiled(plan_by_hand(LpGraph.from_proto(model), formats, elementwise=["node"])))
    for _, found, wanted in results:
        steps = np.abs(found.astype(int) - wanted.astype(int))
        assert steps.max() <= 1
        assert np.mean(steps > 0) <= 0.01


@pytest.mark.parametrize(
    ("ceil", "counted", "pads"), list(itertools.product([0, 1], [0, 1], [[0, 0], [1, 0], [1, 2]]))
)
def test_mean_of_windows_is_that_of_the_float_kernel(ceil: int, counted: int, pads: list[int]) -> None:
    attributes: dict[str, Any] = {
        "kernel_shape": [3],
        "strides": [3],
        "pads": pads,
        "ceil_mode": ceil,
        "count_include_pad": counted,
    }
    x = np.random.default_rng(0).integers(0, 256, (1, 2, 13)).astype(np.uint8)
    one, none = np.array(1, np.float32), np.array(0, np.uint8)
    call = helper.make_node("QuantAveragePool", [""] * 5, ["y"], domain=DOMAIN, **attributes)
    found = run_node(call, [x, one, none, one, none])[0]
    model = parse_model("g (float[1,2,13] x) => (float[1,2,N] y) { y = AveragePool (x) }", check=False)
    model.graph.node[0].attribute.extend(call.attribute)
    wanted = run_model(model, {"x": x.astype(np.float32)})[
        "y"
    ]  # onnx.reference divides wrongly for ceil_mode
    np.testing.assert_array_equal(found, np.rint(wanted))


# whole models


RESIDUAL = """g (float[1,5,8,8] x) => (float[1,9] y)
    <float[6,5,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2, float[6,9] w3, float[9] b3,
     int64[2] shape = {1, 6}> {
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r, w2, b2)
    s = Add (c, r)
    p = GlobalAveragePool (s)
    f = Reshape (p, shape)
    y = Gemm (f, w3, b3)
}"""


def residual_graph() -> LpGraph:
    model = parse_model(RESIDUAL)
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    return LpGraph.from_proto(model)


@pytest.mark.parametrize("storing", SOME, ids=str)
def test_a_whole_model_runs_without_the_runtime(storing: Storing) -> None:
    graph = residual_graph()
    elementwise = ["n_r", "n_s", "n_p", "n_f"]
    plan_by_hand(
        graph, ["x", "r", "c", "s", "p", "f", "y"], storing=storing, elementwise=elementwise, ties={"f": "p"}
    )
    model = compiled(graph)
    assert {n.domain for n in model.graph.node} == {"", DOMAIN}
    feeds = random_feeds(model)
    found, wanted = evaluate(model, feeds), run_model(model, feeds)
    assert list(found) == ["y"]
    scale = graph.plan.activations["y"].scale
    assert np.abs(found["y"] - wanted["y"]).max() <= scale * 1.001  # QLinearAdd may be one step off
    assert np.unique(wanted["y"]).size > 5


@pytest.mark.parametrize("name", ["QuantMystery", "QuantConv_", "Conv"])
def test_an_unknown_operator_is_a_model_error(name: str) -> None:
    with pytest.raises(ModelError, match="no operator of lpcompile"):
        Call.of(helper.make_node(name, ["x"], ["y"], domain="other", name="n"))


@pytest.mark.parametrize(
    "expected",
    [
        ("QuantConv_int8", "QuantConv", "int8", 0, False, False, True, False, 255, 0),
        ("QuantConv_w4_g_s8_nobias_a4", "QuantConv", "pot4", 32, True, False, False, False, 15, 0),
        ("QuantMatMul_w4", "QuantMatMul", "float4_e2m1fn", 0, False, False, False, False, 255, 0),
        (LUT4_CALL, "QuantGemm", LUT4, 0, False, True, True, True, 255, 0),
        ("QuantMatMul_w4_s8", "QuantMatMul", "nf4", 0, True, False, False, False, 255, 0),
        ("DequantizeWeights_float8_e5m2_s8_r4a0", EXPAND, "float8_e5m2", 0, True, False, False, True, 255, 0),
        ("BlockQuantMatMul_int4_g64_s8", "BlockQuantMatMul", "int4", 64, True, False, False, True, 255, 0),
        ("DequantizeWeights_posit4es1_r2a1", EXPAND, "posit4es1", 0, False, False, False, True, 255, 1),
    ],
)  # fmt: skip
def test_a_call_is_read_from_its_name_and_attributes(expected: tuple[Any, ...]) -> None:
    told = {"format": expected[2], "group_size": [expected[3]]} if "_w4" in expected[0] else {}
    call = Call.of(helper.make_node(expected[0], ["x"], ["y"], domain=DOMAIN, **told))
    assert call.format is not None
    found = (call.family, call.format.name, call.group_size, bool(call.scale_codes), call.row_tables)
    assert (*found, call.has_bias, call.float_out, call.code_max, call.axis) == expected[1:]
