"""`widen-float16`: the same numbers in float32, the same types outside."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.widen_float16 import WidenFloat16
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import Array, assert_same_outputs, parse_model


def bits(*values: float) -> str:
    """Values of a float16 tensor as the text form wants them."""
    return "{" + ", ".join(str(b) for b in np.array(values, np.float16).view(np.uint16)) + "}"


HALF = 1e-2  # rounding of float16 in every step against once at the end

CONV = f"""
m (float16[N, 2, 4, 4] x) => (float16[N, 3, 4, 4] y, float16[N, 3, 4, 4] z)
<float16[3, 2, 1, 1] w = {bits(0.5, -1.0, 0.25, 0.75, 1.0, 2.0)}> {{ y = Conv (x, w)\n z = Relu (y) }}"""
MIXED = f"""
m (float[3, 2] x) => (float[3, 2] y) <float16[2, 2] w = {bits(0.5, -1.0, 0.25, 0.75)}>
{{ h = Cast <to = 10> (x)\n p = MatMul (h, w)\n y = Cast <to = 1> (p) }}"""
TABLE = f"""
m (int64[3] x) => (float16[3, 2] y)
<float16[4, 2] t = {bits(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)}, float16[2, 2] w = {bits(0.5, -1.0, 0.25, 0.75)}>
{{ r = Gather (t, x)\n y = MatMul (r, w) }}"""
FILLED = f"""
m (float16[2, 2] x, int64[1] n) => (float16[a, 2] y) <float16[2, 2] w = {bits(0.5, -1.0, 0.25, 0.75)}>
{{ p = MatMul (x, w)\n c = ConstantOfShape <value = float16[1] {bits(1.5)}> (n)\n y = Add (p, c) }}"""


@pytest.mark.parametrize("model", [CONV, MIXED, TABLE, FILLED], ids=["outputs", "mixed", "table", "filled"])
def test_everything_inside_is_float32_and_nothing_outside_changes(model: str) -> None:
    feeds = {"x": np.array([2, 0, 3])} if model is TABLE else None
    if model is FILLED:
        feeds = {"x": np.ones((2, 2), np.float16), "n": np.array([2])}
    graph, report = rewrite(WidenFloat16(), model, rtol=HALF, feeds=feeds)
    proto = onnx.shape_inference.infer_shapes(graph.to_proto(), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.input)}
    computing = [n for n in proto.graph.node if n.op_type not in ("Cast", "Gather")]
    assert computing
    for node in computing:
        assert not any(kinds.get(name) == TensorProto.FLOAT16 for name in node.input)
    assert report.changes


def test_a_table_that_is_only_looked_up_stays_float16() -> None:
    graph, _ = rewrite(WidenFloat16(), TABLE, rtol=HALF, feeds={"x": np.array([2, 0, 3])})
    assert graph.value("t").dtype == np.float16
    assert graph.ops() == ["Gather", "Cast", "MatMul", "Cast"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            """m (float16[3] x, bool b) => (float16[3] y)
            { y = If (b) <then_branch = g () => (float16[3] p) { p = Neg (x) },
                          else_branch = h () => (float16[3] q) { q = Abs (x) }> }""",
            "a control-flow body works on float16",
        ),
        (
            f"m (float16[2] x) => (float16[2] y) <float16[2] k = {bits(1, 2)}> {{ y = Mul (x, k) }}",
            "would double",
        ),
    ],
)
def test_what_stays_float16_says_why(model: str, reason: str) -> None:
    feeds = {"x": np.ones(3, np.float16), "b": np.array(True)} if "bool b" in model else None
    assert reason in left_alone(WidenFloat16(), model, feeds=feeds)[0]


def test_a_float32_graph_is_left_alone() -> None:
    assert left_alone(WidenFloat16(), "m (float[2] x) => (float[2] y) { y = Relu (x) }") == []


TIED = f"""
m (int64[3] x) => (float16[3, 4] y)
<float16[4, 2] t = {bits(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)}>
{{ r = Gather (t, x)\n y = Gemm <transB = 1> (r, t) }}"""
TRANSPOSED = TIED.replace("y = Gemm <transB = 1> (r, t)", "s = Transpose (t)\n y = MatMul (r, s)")


@pytest.mark.parametrize(
    ("model", "copies", "ops", "floats"),
    [
        (TIED, True, ["Gather", "Cast", "Gemm", "Cast"], 1),
        (TIED, False, ["Gather", "Cast", "Cast", "Gemm", "Cast"], 0),
        (TRANSPOSED, True, ["Gather", "Cast", "Cast", "Transpose", "MatMul", "Cast"], 0),
    ],
    ids=["copied", "cast", "transposed"],
)
def test_a_table_that_others_read_is_copied_for_layers_only(
    model: str, copies: bool, ops: list[str], floats: int
) -> None:
    graph, _ = rewrite(WidenFloat16(copies=copies), model, rtol=HALF, feeds={"x": np.array([2, 0, 3])})
    assert sorted(n.op for n in graph.nodes()) == sorted(ops)
    assert [v.dtype for v in graph.constants() if v.name == "t"] == [np.float16]
    assert sum(v.dtype == np.float32 for v in graph.constants()) == floats


def test_weights_of_recurrent_layers_may_become_wide() -> None:
    w, r = (bits(*np.linspace(-1, 1, n)) for n in (8, 16))
    model = f"""m (float16[3, 1, 1] x) => (float16[3, 1, 1, 2] y)
    <float16[1, 8, 1] w = {w}, float16[1, 8, 2] r = {r}> {{ y = LSTM <hidden_size = 2> (x, w, r) }}"""
    graph, report = rewrite(WidenFloat16(), model, rtol=HALF)
    assert report.skips == []
    assert {v.dtype for v in graph.constants()} == {np.dtype(np.float32)}


FUSED = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
m (int32[2,5] i, int32[2,5] m, float16[2,5,8] s) => (float16[2,5,4] y)
<float16[9,8] t, float16[6,8] p, float16[8] g, float16[8] h, float16[8,24] w, float16[24] b, float16[8,4] o> {
    e, n = com.microsoft.EmbedLayerNormalization (i, , t, p, , g, h, m)
    a = com.microsoft.Attention <num_heads = 2> (e, w, b, n)
    u = com.microsoft.SkipLayerNormalization (a, s, g, h)
    v = com.microsoft.FastGelu (u)
    y = MatMul (v, o) }"""
ROTARY = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
m (float16[2,5,8] x, int64[2,5] m) => (float16[2,5,8] y)
<float16[8,8] w, float16[9,2] c, float16[9,2] s> {
    q = MatMul (x, w)  r = com.microsoft.RotaryEmbedding <num_heads = 2> (q, m, c, s)  y = MatMul (r, w) }"""


@pytest.mark.parametrize("text", [FUSED, ROTARY], ids=["split", "left"])
def test_operators_of_the_runtime_do_not_keep_a_network_in_float16(text: str) -> None:
    """Their float32 kernels take the place of those that the runtime wraps in Casts."""
    model = parse_model(text, check=False)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    report = WidenFloat16().run(graph, CONTEXT)
    assert report.changes
    assert {str(n.inputs[1].dtype) for n in graph.layers() if n.inputs[1] is not None} == {"float32"}
    feeds: dict[str, Array] = {
        "i": np.array([[1, 8, 0, 3, 3], [2, 2, 4, 7, 5]], np.int32),
        "m": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
    } | {name: np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float16) for name in ("s", "x")}
    if text is ROTARY:
        feeds["m"] = np.arange(10).reshape(2, 5) % 9
    names = {i.name for i in graph.inputs}
    assert_same_outputs(model, graph.to_proto(), HALF, feeds={k: v for k, v in feeds.items() if k in names})
