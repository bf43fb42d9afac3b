"""`fold-constants` against ONNX Runtime: nodes by numpy and by the runtime, shapes, limits."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_constants import FoldConstants
from lpcompile.pipeline import PassContext
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import Array, assert_same_outputs, parse_model, run_model

SIMPLE = [
    "t = Identity (w)",
    "t = Cast <to = 11> (w)",
    "t = Cast <to = 1> (n)",
    "t = Cast <to = 9> (w)",
    "t = Unsqueeze (w, zero)",
    "a = Unsqueeze (w, zero)  t = Squeeze (a)",
    "a = Unsqueeze (w, zero)  t = Squeeze (a, zero)",
    "t = Reshape (w, half)",
    "t = Flatten <axis = -1> (w)",
    "t = Transpose (w)",
    "t = Transpose <perm = [0, 1]> (w)",
    "t = Concat <axis = -1> (w, w)",
    "t = Gather <axis = 1> (w, n)",
    "t = Slice (w, one, end, one, two)",
    "t = ConstantOfShape <value = int64[1] {7}> (shape)",
    "t = ConstantOfShape (shape)",
    "t = Expand (w, cube)",
    "t = Range (start, stop, step)",
    "a = Equal (n, zero)  t = Where (a, n, one)",
    "t = Add (w, w)",
    "a = Mul (w, w)  t = Sub (a, w)",
    "t = Div (w, w)",
]
BY_RUNTIME = [
    "t = Div (n, two)",
    "t = Cast <to = 7> (w)",
    "t = Sqrt (v)",
    "a = Sqrt (v)  b = Relu (a)  t = Add (a, b)",
    "t, a = Split <num_outputs = 2> (w)",
    "t = Tile (w, shape)",
    "t = Slice (w, end, begin, one, back)",
    "t = Range (fstart, fstop, fstep)",
    "t = ReduceSum (w)",
    "a = Exp (v)  t = MatMul (w, a)",
]
MODEL = """
    m (float x) => (float y, {kind}[{dims}] z)
    <float[2, 4] w, float[4, 3] v = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, int64[3] n = {{0, -1, 1}},
     int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] end = {{99}},
     int64[1] begin = {{-99}}, int64[1] back = {{-1}}, int64[3] half = {{0, 2, -1}},
     int64[2] shape = {{2, 3}}, int64[3] cube = {{3, 1, 4}},
     int64 start = {{1}}, int64 stop = {{12}}, int64 step = {{3}}, float fstart = {{0}}, float fstop = {{2}},
     float fstep = {{0.3}}>
    {{ {body}  z = Identity (t)  y = Neg (x) }}"""


@pytest.mark.parametrize("body", SIMPLE + BY_RUNTIME)
def test_a_constant_expression_becomes_its_value(body: str) -> None:
    graph, _ = rewrite(FoldConstants(), constant_model(body), rtol=1e-6 if body in BY_RUNTIME else 0.0)
    assert sorted(graph.ops()) == ["Identity", "Neg"]


@pytest.mark.parametrize("body", SIMPLE)
def test_simple_nodes_need_no_runtime(body: str) -> None:
    model = constant_model(body)
    graph = LpGraph.from_proto(model)
    FoldConstants().run(graph, PassContext())
    assert_same_outputs(model, graph.to_proto())
    assert sorted(graph.ops()) == ["Identity", "Neg"]


def constant_model(body: str) -> onnx.ModelProto:
    """A model with `t` of the body as output z; type and shape of z are inferred."""
    text = MODEL.format(kind="float", dims="", body=body)
    draft = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    del draft.graph.output[1]
    inferred = onnx.shape_inference.infer_shapes(draft, data_prop=True)
    t = next(info.type.tensor_type for info in inferred.graph.value_info if info.name == "t")
    kind = onnx.TensorProto.DataType.Name(t.elem_type).lower()
    dims = ", ".join(str(d.dim_value) if d.dim_value else f"d{i}" for i, d in enumerate(t.shape.dim))
    return parse_model(MODEL.format(kind=kind, dims=dims, body=body).replace("[]", ""), opset=18)


def test_one_small_model_for_each_connected_part() -> None:
    calls: list[list[str]] = []

    def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
        calls.append([node.op_type for node in proto.graph.node])
        return run_model(proto, feeds)

    model = parse_model("""
        m (float[4] x) => (float[4] y) <float[4] var, float[4] scale>
        { a = Sqrt (var)  b = Log (a)  c = Exp (scale)  d = Add (x, b)  e = Add (d, a)  y = Mul (e, c) }""")
    graph = LpGraph.from_proto(model)
    FoldConstants().run(graph, PassContext(run=run))
    assert sorted(calls) == [["Exp"], ["Sqrt", "Log"]]
    assert_same_outputs(model, graph.to_proto(), 1e-6)


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ("s = Shape (x)  c = Gather (s, one)  t = Concat <axis = 0> (minus, c)", [-1, 12]),
        ("s = Shape <start = 1> (x)  t = Concat <axis = 0> (minus, s)", [-1, 12]),
        ("s = Shape (x)  c = Slice (s, one, two)  t = Concat <axis = 0> (minus, c)", [-1, 12]),
        (
            "s = Shape (x)  c = Gather (s, last)  d = Div (c, four)  u = Unsqueeze (d, zero)  "
            "t = Concat <axis = 0> (minus, u, four1)",
            [-1, 3, 4],
        ),
        ("s = Shape (x)  b = Gather (s, zero)  t = Concat <axis = 0> (b, three, four1)", [0, 3, 4]),
        (
            "s = Shape (x)  b = Gather (s, zero)  c = Mul (b, three)  t = Concat <axis = 0> (c, four1)",
            [-1, 4],
        ),
        ("s = Shape (x)  b = Gather (s, zero)  c = Mul (b, one)  t = Concat <axis = 0> (c, minus)", [0, -1]),
        ("s = Shape (x)  b = Gather (s, zero)  t = Concat <axis = 0> (fed, three, four1)", [-1, 3, 4]),
        (
            "s = Shape (x)  b = Gather (s, zero)  c = Div (ten2, three)  t = Concat <axis = 0> (b, c, three)",
            [0, 4, 3],
        ),
        ("n = Size (w)  u = Unsqueeze (n, zero)  t = Concat <axis = 0> (minus, u)", [-1, 12]),
        ("s = Shape (x)  i = Cast <to = 6> (s)  j = Cast <to = 7> (i)  t = Add (j, zero)", [0, 12]),
    ],
)
def test_reshape_targets_computed_from_shapes(body: str, target: list[int]) -> None:
    graph, _ = rewrite(
        FoldConstants(),
        f"""
        m (float[batch, 12] x, int64[1] fed) => (float[{", ".join("abc"[: len(target)])}] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64 last = {{-1}},
         int64 four = {{4}}, int64[1] three = {{3}}, int64[1] four1 = {{4}}, int64[1] minus = {{-1}},
         float[4, 3] w,         int64[1] ten2 = {{12}}>
        {{ {body}  y = Reshape (x, t) }}""",
        feeds={"x": np.arange(24, dtype=np.float32).reshape(2, 12), "fed": np.array([2])},
    )
    assert graph.ops() == ["Reshape"]
    shape = graph.nodes()[0].inputs[1]
    assert shape is not None
    assert shape.values.tolist() == target


@pytest.mark.parametrize(
    "dims",
    [
        pytest.param("n, n, 4", id="one name for two axes"),
        pytest.param("None, unknown, 4", id="names that say nothing"),
    ],
)
def test_names_that_may_stand_for_two_sizes_are_not_trusted(dims: str) -> None:
    reasons = left_alone(
        FoldConstants(),
        f"""
        m (float[{dims}] x) => (float[a, b, c] y) <int64[2] swap = {{1, 0}}, int64[1] four = {{4}}>
        {{ s = Shape (x)  t = Gather (s, swap)  u = Concat <axis = 0> (t, four)  y = Reshape (x, u) }}""",
        feeds={"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)},
    )
    assert reasons == []


def test_two_unknown_dimensions_keep_the_computation() -> None:
    assert (
        left_alone(
            FoldConstants(),
            """
        m (float[a, b, 4] x) => (float[c, d, e] y) <int64[2] swap = {1, 0}, int64[1] four = {4}>
        { s = Shape (x)  t = Gather (s, swap)  u = Concat <axis = 0> (t, four)  y = Reshape (x, u) }""",
        )
        == []
    )


def test_the_shortcut_of_option_a() -> None:
    graph, _ = rewrite(
        FoldConstants(),
        """
        m (float[N, 4, 8, 8] x) => (float[a, b, c, d] y)
        <int64[1] zero = {0}, int64[1] step = {2}, int64[1] end = {9999}, int64[1] axis = {2},
         int64[4] sides = {0, 0, 2, 2}, int64[2] twos = {-1, 2}, int64[1] last = {-1}, int64[1] down = {-999},
         int64[1] back = {-1}>
        { s = Slice (x, zero, end, axis, step)
          n = Shape (sides)  m = Mul (n, step)  k = Sub (m, n)  z = ConstantOfShape <value = int64[1] {0}> (k)
          c = Concat <axis = 0> (sides, z)  r = Reshape (c, twos)  v = Slice (r, last, down, zero, back)
          q = Transpose (v)  p = Reshape (q, last)  i = Cast <to = 7> (p)
          y = Pad (s, i) }""",
    )
    assert graph.ops() == ["Slice", "Pad"]


def test_two_transposes_of_one_weight_fold() -> None:
    graph, _ = rewrite(
        FoldConstants(),
        """
        m (float[2, 4] x) => (float[2, 5] y, float[2, 5] z) <float[5, 4] w>
        { a = Transpose (w)  b = Transpose (w)  y = MatMul (x, a)  z = MatMul (x, b) }""",
    )
    assert graph.ops() == ["MatMul", "MatMul"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = RandomNormalLike (w)", "it is random, has control flow or is of another operator set"),
        ("t = DequantizeLinear (q, scale)", "it belongs to a model that is quantised already"),
    ],
)
def test_what_is_never_folded(body: str, reason: str) -> None:
    model = parse_model(f"""
        m (float[2, 4] x) => (float[2, 4] y) <float[2, 4] w, uint8[2, 4] q, float scale>
        {{ {body}  y = Add (x, t) }}""")
    graph = LpGraph.from_proto(model)
    report = FoldConstants().run(graph, CONTEXT)
    assert report.changes == []
    assert [skip.reason for skip in report.skips] == [reason]


def test_a_chain_after_dequantization_stays() -> None:
    graph, _ = rewrite(
        FoldConstants(),
        """
        m (float[2, 4] x) => (float[2, 5] y) <int8[5, 4] q, float scale>
        { d = DequantizeLinear (q, scale)  t = Transpose (d)  y = MatMul (x, t) }""",
    )
    assert graph.ops() == ["DequantizeLinear", "Transpose", "MatMul"]


def test_without_a_runtime_other_nodes_stay() -> None:
    model = parse_model("m (float[4] x) => (float[4] y) <float[4] var> { a = Sqrt (var)  y = Add (x, a) }")
    report = FoldConstants().run(LpGraph.from_proto(model), PassContext())
    assert [skip.reason for skip in report.skips] == ["there is no runtime at hand to evaluate it"]


def test_what_the_runtime_cannot_evaluate_stays() -> None:
    def refuse(_proto: onnx.ModelProto, _feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise RuntimeError("no kernel\nand more")

    model = parse_model("m (float[4] x) => (float[4] y) <float[4] var> { a = Sqrt (var)  y = Add (x, a) }")
    report = FoldConstants().run(LpGraph.from_proto(model), PassContext(run=refuse))
    assert report.changes == []
    assert [skip.reason for skip in report.skips] == ["the runtime cannot evaluate it: no kernel"]


def test_elements_that_cannot_be_fed_stay() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        m (float[2] x) => (float[2] y) <float8e4m3fn[2] h> { a = Cast <to = 1> (h)  y = Add (x, a) }""")
    model.graph.initializer.append(
        onnx.helper.make_tensor("h", onnx.TensorProto.FLOAT8E4M3FN, [2], [1.0, 2.0])
    )
    del model.graph.value_info[:]
    report = FoldConstants().run(LpGraph.from_proto(model), CONTEXT)
    assert [skip.reason for skip in report.skips] == ["it handles elements that cannot be fed to the runtime"]


def test_a_contradiction_in_the_model_is_a_reason() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        m (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}, int64[1] k = {2}>
        { t = Reshape (w, k)  y = Relu (x)  u = Add (t, y) }""")
    model.graph.output.append(onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, None))
    report = FoldConstants().run(LpGraph.from_proto(model), CONTEXT)
    assert report.skips[0].reason.startswith("it cannot be evaluated: ")


def test_a_constant_that_a_body_reads_keeps_its_name() -> None:
    graph, _ = rewrite(
        FoldConstants(),
        """
        m (float[4] x, bool c) => (float[4] y) <float[4] w>
        { u = Add (w, w)
          y = If (c) <then_branch = g1 () => (float[4] a) { a = Add (x, u) },
                      else_branch = g2 () => (float[4] b) { b = Exp (x) }> }""",
    )
    assert sorted(graph.ops()) == ["Identity", "If"]


def test_old_opsets_and_nodes_without_names() -> None:
    model = parse_model(
        """
        m (float[4, 3] x) => (float[12] y, float[4, 3] z) <int64[1] rest = {-1}, float[1, 4, 3] w>
        { s = Squeeze <axes = [0]> (w)  u = Unsqueeze <axes = [1]> (s)  v = Squeeze <axes = [1]> (u)
          z = Add (x, v)  k = Identity (rest)  y = Reshape (z, k) }""",
        opset=7,
    )
    for node in model.graph.node:
        node.ClearField("name")
    graph, _ = rewrite(FoldConstants(), model)
    assert graph.ops() == ["Add", "Reshape"]


def test_a_weight_that_identities_repeat_stays_one_constant() -> None:
    """As exporters write layers that are applied several times."""
    graph, _ = rewrite(
        FoldConstants(),
        """m (float[2, 3] x) => (float[2, 3] y) <float[3, 3] w>
        { v = Identity (w)  u = Identity (v)  a = MatMul (x, w)  b = MatMul (a, v)  y = MatMul (b, u) }""",
    )
    assert graph.ops() == ["MatMul"] * 3
    assert len({n.inputs[1] for n in graph.nodes()}) == 1
