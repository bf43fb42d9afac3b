"""`rotate`: a pre-norm transformer gives what it gave, and every stream that does not fold says why."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from lpcompile.analysis.hadamard import rotation
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.rotate import Rotate
from lpcompile.pipeline import PassContext, Pipeline
from lpcompile.records import PassReport
from tests.support import assert_same_outputs, parse_model, random_feeds

PRENORM = """m (int64[2,5] ids) => (float[2,5,7] y)
<float[9,12] table, float[5,12] places, float[12] g1, float[12] h1, float[12,16] up, float[16] b1, float[16,12] down,
 float[12] b2, float[12] g2, float[12] h2, float[12,7] head> {
    t = Gather (table, ids)  s = Add (t, places)
    n = LayerNormalization <axis = -1> (s, g1, h1)  a = MatMul (n, up)  c = Add (b1, a)  r = Relu (c)
    d = MatMul (r, down)  e = Add (d, b2)  f = Add (s, e)
    o = LayerNormalization <axis = -1> (f, g2, h2)  y = MatMul (o, head)
}"""
MATRICES = """m (float[6,4] x) => (float[6,3] y)
<float[4,8] w1, float[8] b1, float[8] g, float[8] h, float[3,8] w2, float[3] b2> {
    s = Gemm (x, w1, b1)  n = LayerNormalization <axis = -1> (s, g, h)  y = Gemm <transB = 1> (n, w2, b2)
}"""
DIRECT = """m (float[2,6,4] x) => (float[2,3,3] y, float[2,6,3] z)
<float[4,8] w1, float[8] g, float[8,3] w2, float[8,3] w3, int64[3] at = {0, 2, 4}> {
    a = MatMul (x, w1)  i = Identity (a)  p = Gather <axis = 1> (i, at)
    n = LayerNormalization <axis = -1> (p, g)  y = MatMul (n, w2)  z = MatMul (i, w3)
}"""
SEVERAL = """m (float[2,6,4] x) => (float[2,6,3] y, float[2,6,5] z)
<float[4,8] w1, float[8,8] mix, float[8] g, float[8] h, float[8,3] w2, float[8,5] w3> {
    a = MatMul (x, w1)  n = LayerNormalization <axis = -1> (a, g, h)
    m = MatMul (n, mix)  s = Add (m, a)  k = LayerNormalization <axis = -1> (s, g, h)
    y = MatMul (k, w2)  z = MatMul (k, w3)
}"""


def rotated(model: ModelProto, seed: int = 0) -> tuple[LpGraph, PassReport]:
    twin = ModelProto()
    twin.CopyFrom(model)
    graph = LpGraph.from_proto(twin)
    context = PassContext(seed=seed)
    (report,) = Pipeline((Rotate(),)).run(graph, context)
    (again,) = Pipeline((Rotate(),), given=frozenset(graph.facts)).run(graph, context)
    assert again.changes == []
    return graph, report


@pytest.mark.parametrize("text", [PRENORM, MATRICES, DIRECT, SEVERAL])
@given(seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_the_network_stays(text: str, seed: int) -> None:
    model = parse_model(text, seed=seed)
    graph, report = rotated(model, seed)
    assert len(report.changes) == 1
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(model, after, rtol=2e-5)


def test_the_weights_are_those_of_the_formula() -> None:
    model = parse_model(PRENORM)
    graph, report = rotated(model, 5)
    q = rotation(12, np.random.default_rng(5), keeps_mean=True)
    w = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    up, down, head = (n.inputs[1] for n in graph.nodes("MatMul"))
    assert up is not None
    assert down is not None
    assert head is not None
    np.testing.assert_allclose(up.values, q.T @ (w["g1"][:, None] * w["up"]), atol=1e-6)
    np.testing.assert_allclose(down.values, w["down"] @ q, atol=1e-6)
    np.testing.assert_allclose(head.values, q.T @ (w["g2"][:, None] * w["head"]), atol=1e-6)
    table = graph.nodes("Gather")[0].inputs[0]
    assert table is not None
    np.testing.assert_allclose(table.values, w["table"] @ q, atol=1e-6)
    assert report.changes[0].what == "stream of 12 channels rotated: 2 writers, 2 norms, 2 readers"
    for norm in graph.nodes("LayerNormalization"):
        scale, shift = norm.inputs[1:]
        assert scale is not None
        assert shift is not None
        assert (scale.values == 1).all()
        assert not shift.values.any()


def test_rotated_tensors_are_renamed() -> None:
    graph, _ = rotated(parse_model(PRENORM))
    for name in "tsndefo":
        assert name not in graph
        assert f"{name}/rotated" in graph
    assert {"a", "c", "r"} <= {v.name for n in graph.nodes() for v in n.outputs if v is not None}


def test_what_stands_out_is_spread() -> None:
    model = parse_model(PRENORM)
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            w = numpy_helper.to_array(tensor).copy()
            w[:, 3] += 20
            tensor.CopyFrom(numpy_helper.from_array(w, "table"))
    graph, _ = rotated(model)
    table = graph.nodes("Gather")[0].inputs[0]
    assert table is not None
    assert np.abs(table.values).max() < 15


def test_norms_without_a_mean_are_rotated_too() -> None:
    text = """m (float[2,5,4] x) => (float[2,5,3] y) <float[4,8] w0, float[8] g, float[8,8] w1, float[8,3] w2> {
        s = MatMul (x, w0)  n = RMSNormalization <axis = -1> (s, g)  m = MatMul (n, w1)  t = Add (s, m)
        o = RMSNormalization <axis = -1> (t, g)  y = MatMul (o, w2) }"""
    model = parse_model(text, opset=23)
    graph, report = rotated(model, 1)
    assert len(report.changes) == 1
    feeds = random_feeds(model)
    (wanted,), (found,) = (ReferenceEvaluator(m).run(None, feeds) for m in (model, graph.to_proto()))
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=1e-5)
    q = rotation(8, np.random.default_rng(1), keeps_mean=False)
    first = graph.nodes("MatMul")[0].inputs[1]
    assert first is not None
    w0 = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w0")
    np.testing.assert_allclose(first.values, w0.astype(np.float64) @ q, atol=1e-6)


def test_a_table_that_others_read_stays_theirs() -> None:
    text = PRENORM.replace("=> (float[2,5,7] y)", "=> (float[2,5,7] y, float[9,12] z)").replace(
        "y = MatMul (o, head)", "y = MatMul (o, head)  z = Relu (table)"
    )
    model = parse_model(text)
    graph, report = rotated(model)
    assert report.changes
    assert_same_outputs(model, graph.to_proto(), rtol=2e-5)


HELD = {
    "the gain of {norm} acts on the stream itself (norms after the additions)": """s = MatMul (x, w)
        n = LayerNormalization <axis = -1> (s, g)  m = MatMul (n, w)  t = Add (n, m)
        y = LayerNormalization <axis = -1> (t, g)""",
    "'s' is read from outside": "s = MatMul (x, w)  n = LayerNormalization <axis = -1> (s, g)  y = MatMul (n, w)",
    "'x' is a graph input": "n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w)",
    "the result of {norm} is read from outside": "s = MatMul (x, w)  y = LayerNormalization <axis = -1> (s, g)",
    "Relu reads the result of {norm}": """s = MatMul (x, w)  n = LayerNormalization <axis = -1> (s, g)
        y = Relu (n)""",
    "Relu reads it": "s = MatMul (x, w)  n = LayerNormalization <axis = -1> (s, g)  z = Relu (s)  y = MatMul (n, w)",
    "Relu makes it": "s = Relu (x)  n = LayerNormalization <axis = -1> (s, g)  y = MatMul (n, w)",
    "Transpose makes it": """s = MatMul (x, w)  t = Transpose <perm = [0,2,1]> (s)
        n = LayerNormalization <axis = -1> (t, g)  y = MatMul (n, w)""",
    "Mul scales its channels": """a = MatMul (x, w)  s = Mul (a, g)  n = LayerNormalization <axis = -1> (s, g)
        y = MatMul (n, w)""",
    "the constant of {add} is not one number a channel": """a = MatMul (x, w)  s = Add (a, one)
        n = LayerNormalization <axis = -1> (s, g)  y = MatMul (n, w)""",
    "{norm} has further results or another axis": """s = MatMul (x, w)
        n = LayerNormalization <axis = 1> (s, square)  y = MatMul (n, w)""",
    "scale and shift of {norm} are not constants for each channel": """s = MatMul (x, w)  k = Relu (v)
        n = LayerNormalization <axis = -1> (s, k)  y = MatMul (n, w)""",
    "its table of rows is no matrix": """s = Gather (cube, ids)  n = LayerNormalization <axis = -1> (s, g)
        y = MatMul (n, w)""",
}


@pytest.mark.parametrize("reason", HELD)
def test_what_does_not_fold_says_why(reason: str) -> None:
    outputs = "float[1,8,8] y" + (", float[1,8,8] z" if "z =" in HELD[reason] else "")
    outputs += ", float[1,8,8] s" if reason.startswith("'s'") else ""
    model = parse_model(
        f"m (float[1,8,8] x, float[8] v, int64 ids) => ({outputs}) <float[8] g, float[8,8] w, float[8,8] square,"
        f" float[3,1,8,8] cube, float[1] one> {{ {HELD[reason]} }}",
        check=False,
    )
    if "cube" in HELD[reason]:
        model.graph.input[2].type.tensor_type.shape.Clear()
    graph, report = rotated(model)
    names = {
        "norm": next(n.name for n in graph.nodes("LayerNormalization")),
        "add": next((n.name for n in graph.nodes("Add")), ""),
    }
    assert report.changes == []
    assert reason.format(**names) in [s.reason for s in report.skips]


def test_what_a_body_reads_stays() -> None:
    text = """m (float[2,5,8] x, bool c) => (float[2,5,3] y, float[2,5,8] z) <float[8,8] v, float[8] g, float[8,3] w> {
        s = MatMul (x, v)  n = LayerNormalization <axis = -1> (s, g)  y = MatMul (n, w)
        z = If (c) <then_branch = a () => (float[2,5,8] t) { t = Relu (s) },
                    else_branch = b () => (float[2,5,8] e) { e = Neg (s) }> }"""
    graph, report = rotated(parse_model(text))
    assert [s.reason for s in report.skips] == ["'s' is read from outside"]
    assert_same_outputs(parse_model(text), graph.to_proto())
