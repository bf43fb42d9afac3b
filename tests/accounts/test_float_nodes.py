"""What float operators cost, by hand; M, A and C are a product, a sum and a comparison of 32-bit floats."""

import numpy as np
import onnx
import pytest
from onnx import helper

from lpcompile.accounts.entries import Account
from lpcompile.accounts.graphs import float_account
from lpcompile.analysis.arithmetic import Kind
from lpcompile.ir.graph import LpGraph
from tests.accounts.planned_networks import entries, graph_of
from tests.support import parse_model

M, A, C, S = 1024, 32, 32, 32
EXP, LOG = 4 * M + 4 * A + S, 3 * M + 3 * A + S  # recipes of the notes, sec. 7
SIGMOID, TANH = EXP + A + M, EXP + 3 * A + M
ERF = (2 * M + 2 * A, C)  # and what is compared
N = 96  # elements of x


def account(text: str) -> Account:
    return float_account(graph_of(text))


def one(
    call: str, shape: str = "2,3,4,4", weights: str = "", x: str = "float[2,3,4,4]", opset: int = 17
) -> Account:
    """The account of y = `call` of x."""
    held = f"<{weights}>" if weights else ""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n g ({x} x) => (float[{shape}] y) {held} {{ y = {call} }}'
    return account(text)


ELEMENTWISE = [
    ("Relu (x)", "", {"compare": C}),
    ("LeakyRelu (x)", "", {"activation": M, "compare": C}),
    ("PRelu (x, s)", "float[3,1,1] s", {"activation": M, "compare": C}),
    ("Elu (x)", "", {"activation": EXP + A + M, "compare": C}),
    ("Selu (x)", "", {"activation": EXP + A + 2 * M, "compare": C}),
    ("Celu (x)", "", {"activation": EXP + A + 2 * M, "compare": C}),
    ("ThresholdedRelu (x)", "", {"compare": C}),
    ("HardSigmoid (x)", "", {"activation": M + A, "compare": 2 * C}),
    ("HardSwish (x)", "", {"activation": 2 * M + A, "compare": 2 * C}),
    ("Sigmoid (x)", "", {"activation": SIGMOID}),
    ("Tanh (x)", "", {"activation": TANH}),
    ("Softplus (x)", "", {"activation": EXP + A + LOG}),
    ("Softsign (x)", "", {"activation": A + M}),
    ("Shrink (x)", "", {"activation": A, "compare": 2 * C}),
    ("Erf (x)", "", {"activation": ERF[0], "compare": ERF[1]}),
    ("Clip (x, low)", "float low = {0.0}", {"compare": C}),
    ("Clip (x, low, high)", "float low = {0.0}, float high = {6.0}", {"compare": 2 * C}),
    ("Clip (x)", "", {}),
    ("Exp (x)", "", {"other": EXP}),
    ("Log (x)", "", {"other": LOG}),
    ("Sqrt (x)", "", {"other": M}),
    ("Reciprocal (x)", "", {"other": M}),
    ("Sin (x)", "", {"other": 5 * M + 4 * A}),
    ("Round (x)", "", {"other": A}),
    ("Neg (x)", "", {}),
    ("Abs (x)", "", {}),
    ("Pow (x, e)", "float e = {2.0}", {"other": M}),
    ("Pow (x, e)", "float e = {3.0}", {"other": 2 * M}),
    ("Pow (x, e)", "float e = {4.0}", {"other": 2 * M}),
    ("Pow (x, e)", "float e = {-2.0}", {"other": 2 * M}),
    ("Pow (x, e)", "float e = {0.5}", {"other": M}),
    ("Pow (x, e)", "float e = {1.5}", {"other": LOG + M + EXP}),
    ("Pow (x, e)", "float e = {1.0}", {}),
    ("Add (x, x)", "", {"residual": A}),
    ("Sub (x, x)", "", {"residual": A}),
    ("Sum (x, x, x)", "", {"residual": 2 * A}),
    ("Mean (x, x)", "", {"residual": A, "other": M}),
    ("Max (x, x, x)", "", {"compare": 2 * C}),
    ("Mul (x, x)", "", {"other": M}),
    ("Mul (x, c)", "float[3,1,1] c", {"norm": M}),
    ("Div (x, c)", "float[3,1,1] c", {"norm": M}),
    ("Add (x, c)", "float[3,1,1] c", {"norm": A}),
    ("Mul (x, c)", "float c = {0.125}", {"scale": M}),
    ("Add (x, c)", "float c = {0.125}", {"other": A}),
    ("Add (x, c)", "float[3,4,4] c", {"other": A}),
    ("CumSum (x, i)", "int64 i = {1}", {"other": A}),
    ("BatchNormalization (x, c, b, m, v)", "float[3] c, float[3] b, float[3] m, float[3] v", {"norm": M + A}),
    ("Softmax (x)", "", {"softmax": 2 * A + EXP + M, "compare": C}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "weights", "each"), ELEMENTWISE)
def test_elementwise_operators(call: str, weights: str, each: dict[str, int]) -> None:
    found = one(call, weights=weights)
    assert found.uncounted == ()
    assert {k: v for k, v in found.by_class().items() if v} == {k: N * v for k, v in each.items() if v}


AGGREGATION = [
    ("GlobalAveragePool (x)", "2,3,1,1", "", {"pool": 6 * (15 * A + M)}),
    ("GlobalMaxPool (x)", "2,3,1,1", "", {"compare": 6 * 15 * C}),
    ("AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)", "2,3,2,2", "", {"pool": 24 * (3 * A + M)}),
    ("MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", "2,3,4,4", "", {"compare": N * 8 * C}),
    ("LpPool <kernel_shape = [2, 2]> (x)", "2,3,3,3", "", {"pool": 54 * (4 * M + 3 * A + M)}),
    ("ReduceSum <keepdims = 1> (x, i)", "2,3,4,1", "int64[1] i = {3}", {"other": (N - 24) * A}),
    ("ReduceMean <axes = [2, 3]> (x)", "2,3,1,1", "", {"pool": (N - 6) * A + 6 * M}),
    ("ReduceMax <axes = [1]> (x)", "2,1,4,4", "", {"compare": (N - 32) * C}),
    ("ReduceL2 <axes = [1]> (x)", "2,1,4,4", "", {"other": N * M + (N - 32) * A + 32 * M}),
    ("ReduceL1 <axes = [1]> (x)", "2,1,4,4", "", {"other": (N - 32) * A}),
    ("ReduceProd <axes = [1]> (x)", "2,1,4,4", "", {"other": (N - 32) * M}),
    ("ReduceSumSquare <axes = [1]> (x)", "2,1,4,4", "", {"other": N * M + (N - 32) * A}),
    ("LayerNormalization <axis = -1> (x, scale, b)", "2,3,4,4", "float[4] scale, float[4] b",
     {"norm": N * (2 * A + M + A + M + M + A) + 24 * (M + M + A + M + M)}),
    ("InstanceNormalization (x, scale, b)", "2,3,4,4", "float[3] scale, float[3] b",
     {"norm": N * (4 * A + 3 * M) + 6 * (4 * M + A)}),
    ("LpNormalization (x)", "2,3,4,4", "", {"norm": N * (M + A + M) + 24 * (3 * M + A)}),
    ("LogSoftmax (x)", "2,3,4,4", "", {"softmax": N * (3 * A + EXP) + 24 * LOG, "compare": N * C}),
    ("MeanVarianceNormalization <axes = [0, 2, 3]> (x)", "2,3,4,4", "",
     {"norm": N * (3 * A + 2 * M) + 3 * (4 * M + A)}),
    ("Hardmax (x)", "2,3,4,4", "", {"compare": N * 2 * C}),
    ("LRN <size = 5, beta = 0.5> (x)", "2,3,4,4", "", {"norm": N * (2 * M + 5 * A + M + M)}),
    ("Resize <mode = \"linear\"> (x, , f)", "2,3,8,8", "float[4] f = {1.0, 1.0, 2.0, 2.0}",
     {"other": 4 * N * (4 * M + 3 * A)}),
    ("Resize <mode = \"nearest\"> (x, , f)", "2,3,8,8", "float[4] f = {1.0, 1.0, 2.0, 2.0}", {}),
    ("Transpose <perm = [0, 1, 3, 2]> (x)", "2,3,4,4", "", {}),
    ("Concat <axis = 1> (x, x)", "2,6,4,4", "", {}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "shape", "weights", "total"), AGGREGATION)
def test_operators_that_join_numbers(call: str, shape: str, weights: str, total: dict[str, int]) -> None:
    found = one(call, shape, weights)
    assert found.uncounted == ()
    assert {k: v for k, v in found.by_class().items() if v} == {k: v for k, v in total.items() if v}


PRODUCTS = [
    ("MatMul (x, x)", "2,3,4,4", "", {"mac": N * 4 * M}),
    ("MatMul (x, w)", "2,3,4,5", "float[4,5] w", {"mac": 120 * 4 * M}),
    ("Conv <group = 3> (x, w, b)", "2,6,2,2", "float[6,1,3,3] w, float[6] b", {"mac": 48 * 9 * M, "other": 48 * A}),
    ("ConvTranspose <strides = [2, 2]> (x, w)", "2,5,8,8", "float[3,5,2,2] w", {"mac": N * 5 * 4 * M}),
    ("Einsum <equation = \"nchw,nchv->ncwv\"> (x, x)", "2,3,4,4", "", {"mac": 2 * 3 * 4 * 4 * 4 * M}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "shape", "weights", "total"), PRODUCTS)
def test_products(call: str, shape: str, weights: str, total: dict[str, int]) -> None:
    found = one(call, shape, weights)
    assert found.uncounted == ()
    assert {k: v for k, v in found.by_class().items() if v} == total
    assert found.ace == total["mac"]


def test_attention_in_one_node() -> None:
    """2 samples, 3 heads, 4 queries, 9 keys (2 of them past), 5 and 6 numbers a head; also with heads side by side."""
    scores = 2 * 3 * 4 * 9
    expected = {"mac": scores * 11 * M, "scale": scores * M, "other": scores * A, "compare": scores * C}
    expected["softmax"] = scores * (2 * A + EXP + M)
    apart = """<ir_version: 10, opset_import: ["" : 23]>
        g (float[2,3,4,5] q, float[2,3,7,5] k, float[2,3,7,6] v, float[2,3,4,9] m, float[2,3,2,5] pk, float[2,3,2,6] pv)
        => (float[2,3,4,6] y, float[2,3,9,5] nk, float[2,3,9,6] nv) { y, nk, nv = Attention (q, k, v, m, pk, pv) }"""
    beside = """<ir_version: 10, opset_import: ["" : 23]>
        g (float[2,4,15] q, float[2,9,15] k, float[2,9,18] v, float[2,3,4,9] m) => (float[2,4,18] y)
        { y = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v, m) }"""
    for text in (apart, beside):
        found = account(text)
        assert found.uncounted == ()
        assert {k: v for k, v in found.by_class().items() if v} == expected


@pytest.mark.parametrize(("op", "gates", "step"), [
    ("LSTM", 4, 3 * SIGMOID + 2 * TANH + 3 * M + A),
    ("GRU", 3, 2 * SIGMOID + TANH + 3 * M + 2 * A),
    ("RNN", 1, TANH),
])  # fmt: skip
def test_recurrent_cells(op: str, gates: int, step: int) -> None:
    """7 steps, batch 2, both directions, 5 inputs, 6 hidden numbers."""
    found = account(f"""
        g (float[7,2,5] x) => (float[7,2,2,6] y)
        <float[2,{6 * gates},5] w, float[2,{6 * gates},6] r, float[2,{12 * gates}] b>
        {{ y = {op} <hidden_size = 6, direction = "bidirectional"> (x, w, r, b) }}""")
    times = 7 * 2 * 2
    assert found.by_class()["mac"] == times * gates * 6 * (5 + 6) * M
    assert found.by_class()["other"] == times * gates * 6 * A
    assert found.by_class()["activation"] == times * 6 * step


def test_gelu_in_one_node_costs_what_it_costs_in_five() -> None:
    """x/2 * (1 + erf(x / sqrt 2)); all five are one activation."""
    whole = one("Gelu (x)", opset=20)
    parts = account("""
        g (float[2,3,4,4] x) => (float[2,3,4,4] y) <float two = {1.4142135}, float unit = {1.0}, float half = {0.5}> {
            a = Div (x, two)  b = Erf (a)  c = Add (b, unit)  d = Mul (x, c)  y = Mul (d, half)
        }""")
    assert parts.by_class() == whole.by_class()
    assert whole.by_class()["activation"] == N * (5 * M + 3 * A)


def test_a_gate_is_an_activation_and_a_mask_no_residual() -> None:
    found = account("""
        g (float[2,3,4,4] x, float[2,3,1,1] g, float[2,1,1,4] mask) => (float[2,3,4,4] y, float[2,3,4,4] z) {
            [gate] s = Sigmoid (g)
            [gated] y = Mul (x, s)
            [masked] z = Add (x, mask)
        }""")
    assert {e.node: set(e.by_class()) for e in found.entries} == {
        "gate": {"activation"}, "gated": {"activation"}, "masked": {"other"}
    }  # fmt: skip


def test_a_bias_is_no_norm_but_an_offset_after_a_slope_is() -> None:
    found = account("""
        g (float[2,4] x) => (float[2,5] y, float[2,5] z) <float[4,5] w, float[5] b, float[5] s> {
            t = MatMul (x, w)
            [bias] y = Add (t, b)
            [slope] u = Mul (y, s)
            [offset] z = Add (u, b)
        }""")
    classes = {e.node: set(e.by_class()) for e in found.entries}
    assert (classes["bias"], classes["slope"], classes["offset"]) == ({"other"}, {"norm"}, {"norm"})


def test_half_floats_and_integers_count_at_their_width() -> None:
    half = account("g (float16[8] x) => (float16[8] y) { y = Mul (x, x) }")
    assert half.by_class()["other"] == 8 * 16 * 16
    whole = account("g (int64[8] x) => (int64[8] y) { y = Add (x, x) }")
    assert whole.by_class()["residual"] == 8 * 64
    assert {o.floats for e in whole.entries for _, o in e.work} == {False}
    rounded = account("g (float[8] x) => (int32[8] y) { y = Cast <to = 6> (x) }")
    assert rounded.by_class()["other"] == 8 * 32


def test_quantised_models_count_in_integers() -> None:
    """QLinearConv: 8 by 8 bits, one float scale and offset and two comparisons an output."""
    found = account("""
        g (float[1,3,4,4] x) => (float[1,2,4,4] y)
        <float s = {0.1}, uint8 z = {128}, int8[2,3,1,1] w, float[2] ws = {0.1, 0.2}, int8[2] wz = {0, 0}> {
            [q] a = QuantizeLinear (x, s, z)
            [conv] b = QLinearConv (a, s, z, w, ws, wz, s, z)
            [d] y = DequantizeLinear (b, s, z)
        }""")
    by = {e.node: e.by_class() for e in found.entries}
    assert by["q"] == {"scale": 48 * (M + A), "compare": 48 * 2 * C}
    assert by["conv"] == {"mac": 32 * 3 * 64, "scale": 32 * (M + A), "compare": 32 * 2 * C}
    assert by["d"] == {"scale": 32 * (M + 8)}
    assert found.ace == 32 * 3 * 64


def test_constants_shapes_and_dead_nodes_cost_nothing() -> None:
    found = account("""
        g (float[4,6] x) => (float[4,6] y) <float[4,6] a, float[4,6] b, int64 i = {0}> {
            c = Mul (a, b)
            d = Exp (c)
            s = Shape (x)  n = Gather (s, i)  f = Cast <to = 1> (n)  g1 = Sqrt (f)
            unread = Exp (x)
            u = Add (x, d)
            [last] y = Mul (u, g1)
        }""")
    assert [e.op for e in found.entries] == ["Add", "Mul"]
    assert found.uncounted == ()


def test_unknown_operators_are_named_and_count_nowhere() -> None:
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Relu", ["x"], ["a"], "relu"),
                helper.make_node("Strange", ["a"], ["b"], "mine", domain="com.example"),
                helper.make_node("Det", ["b"], ["y"], "det"),
            ],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 3])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)],
        ir_version=8,
    )
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    found = float_account(graph)
    assert [e.node for e in found.entries] == ["relu"]
    assert [(u.node, u.reason) for u in found.uncounted] == [
        ("mine", "operator com.example::Strange is not known"),
        ("det", "operator Det is not known"),
    ]


def test_a_node_that_contradicts_itself_is_named() -> None:
    model = parse_model(
        'g (float[2,3,4] x) => (float[4,4] y) { y = Einsum <equation = "ij,jk->ik"> (x, x) }', check=False
    )
    found = float_account(LpGraph.from_proto(model))
    (missing,) = found.uncounted
    assert missing.reason.startswith("it contradicts itself: ")


def test_symbolic_axes_are_named_and_a_symbolic_batch_is_one() -> None:
    found = account(
        "g (float[n,len,4] x) => (float[n,len,4] y) <float[4,4] w> { t = MatMul (x, w)  y = Relu (t) }"
    )
    assert found.entries == ()
    assert [u.reason for u in found.uncounted] == [
        "axis 1 of 'x' has no fixed size",
        "axis 1 of 'y' has no fixed size",
    ]
    batch = account(
        "g (float[n,5,4] x) => (float[n,5,4] y) <float[4,4] w> { t = MatMul (x, w)  y = Relu (t) }"
    )
    assert (batch.ace, batch.by_class()["compare"]) == (5 * 16 * M, 20 * C)


def test_sizes_behind_a_reshape_follow_the_batch() -> None:
    """Rows of the matrix are tokens: 5 of one sample, not one of five."""
    found = account("""
        g (float[n,5,4] x) => (float[m,6] y) <float[4,6] w, int64[2] s = {-1, 4}> {
            t = Reshape (x, s)
            [layer] y = MatMul (t, w)
        }""")
    assert entries(found)["layer"].ace == 5 * 24 * M


def test_bytes_are_those_of_tensors_and_weights() -> None:
    found = entries(
        account("""
        g (float[1,4] x) => (float[1,6] y) <float[4,6] w, float[6] b, int64[2] s = {1, 6}> {
            [layer] t = MatMul (x, w)
            [shaped] u = Reshape (t, s)
            [moved] v = Concat <axis = 0> (u)
            [sum] y = Add (v, b)
        }""")
    )
    assert found["layer"].bytes == 4 * (4 + 24 + 6)
    assert "shaped" not in found
    assert (found["moved"].bytes, found["sum"].bytes) == (4 * 12, 4 * (6 + 6 + 6))


def test_free_operations_stand_apart() -> None:
    found = one("Neg (x)")
    assert (found.free_operations, found.acev2(), found.energy45nm_pj) == (N, 0.0, 0.0)
    (entry,) = found.entries
    assert {o.kind for _, o in entry.work} == {Kind.FREE}
    assert np.isclose(one("Add (x, x)").energy45nm_pj, N * 0.9)
