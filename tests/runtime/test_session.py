"""Sessions: results against hand calculations, failures as one line."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcompile.analysis.inputs import InputSpec
from lpcompile.errors import InputError, ModelError, UnsupportedOpError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.session import LEVELS, Session
from tests.support import parse_model

HEADER = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER + text)


ADD = model("g (float[n, 2] x, float[2] b) => (float[n, 2] y, float[n, 2] z) { y = Add(x, b) z = Neg(y) }")
FEEDS = {"x": np.array([[1, 2]], np.float32), "b": np.array([10, 20], np.float32)}


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    onnx.save(ADD, tmp_path / "m.onnx")
    for source in (ADD, ADD.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        found = Session(source, threads=1).run(FEEDS)
        assert list(found) == ["y", "z"]
        np.testing.assert_array_equal(found["y"], [[11, 22]])


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_runs(level: str) -> None:
    np.testing.assert_array_equal(Session(ADD, level=level).run(FEEDS, ["z"])["z"], [[-11, -22]])


@pytest.mark.parametrize("level", LEVELS)
def test_weights_of_a_graph_are_shared(level: str) -> None:
    made = parse_model("""
        g (float[n,64] x) => (float[n,32] y) <float[64,64] w, float[64] b, float[64,32] v> {
            t = Gemm (x, w, b)
            u = Relu (t)
            y = MatMul (u, v)
        }""")
    graph, x = LpGraph.from_proto(made), np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    session = Session(graph, level=level)
    del graph
    for _ in range(2):
        found = session.run({"x": x})["y"]
        np.testing.assert_allclose(
            found, Session(made, level="none").run({"x": x})["y"], rtol=1e-4, atol=1e-5
        )
    assert session.serialised_bytes is not None
    assert session.serialised_bytes < 2048 < made.ByteSize()


def test_a_session_that_frees_early_gives_the_same() -> None:
    found = Session(ADD, threads=1, lean=True).run(FEEDS)
    np.testing.assert_array_equal(found["z"], [[-11, -22]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_that_the_runtime_transposes_are_its_own(level: str, op: str) -> None:
    made = parse_model(f"""
        g (float[2,24,24] x) => (float[2,24,24] y) <float[1,24,24] c, float[24,24] w> {{
            t = Transpose <perm = [0, 2, 1]> (x)
            a = {op} (t, c)
            u = Transpose <perm = [0, 2, 1]> (a)
            y = MatMul (u, w)
        }}""")
    x = np.random.default_rng(0).standard_normal((2, 24, 24)).astype(np.float32)
    c, w = (onnx.numpy_helper.to_array(t) for t in made.graph.initializer)
    moved = x.transpose(0, 2, 1) + c if op == "Add" else x.transpose(0, 2, 1) * c
    found = Session(LpGraph.from_proto(made), level=level).run({"x": x})["y"]
    np.testing.assert_allclose(found, moved.transpose(0, 2, 1) @ w, rtol=1e-4, atol=1e-4)


def test_the_interface_is_known() -> None:
    session = Session(ADD)
    f32 = np.dtype(np.float32)
    assert session.inputs == [InputSpec("x", f32, ("n", 2)), InputSpec("b", f32, (2,))]
    assert session.outputs == ["y", "z"]


def test_sequences_are_given_member_by_member() -> None:
    found = Session(model("g (float[4] x) => (seq(float[2]) y) { y = SplitToSequence<axis = 0>(x) }")).run(
        {"x": np.arange(4, dtype=np.float32)}
    )
    assert list(found) == ["y[0]", "y[1]", "y[2]", "y[3]"]
    assert found["y[2]"] == 2


def test_strings_go_through() -> None:
    found = Session(model("g (string[n] x) => (string[n] y) { y = Identity(x) }")).run(
        {"x": np.array(["ä", "b"])}
    )
    assert found["y"].tolist() == ["ä", "b"]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (b"hello", ModelError, "cannot load the model: Failed to load model because protobuf parsing failed"),
        (b"", ModelError, "cannot load the model"),
        ("nowhere.onnx", ModelError, "cannot load the model: Load model from nowhere.onnx failed"),
        (
            model("g (float[2] x) => (float[2] y) { y = Foo(x) }"),
            UnsupportedOpError,
            "No Op registered for Foo",
        ),
        (model("g (float[2] x) => (float[2] y) { y = my.Foo(x) }"), UnsupportedOpError, "my:Foo(-1) is not"),
        (
            model("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }"),
            UnsupportedOpError,
            "input 'x' is a seq(tensor(float)), not a tensor",
        ),
    ],
)
def test_what_cannot_be_loaded(
    source: onnx.ModelProto | bytes | str, kind: type[ModelError], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Session(source)
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert caught.value.hint


def test_feeds_that_do_not_fit() -> None:
    session = Session(ADD)
    wrong: list[dict[str, np.ndarray]] = [
        {},
        {**FEEDS, "b": np.ones(3, np.float32)},
        {**FEEDS, "x": np.ones((1, 2))},
    ]
    for feeds in wrong:
        with pytest.raises(InputError, match="the feeds do not fit the model") as caught:
            session.run(feeds)
        assert caught.value.hint == "the model takes x (float32, nx2), b (float32, 2)"


def test_an_operator_that_fails_is_named() -> None:
    session = Session(model("g (float[n] x, int64[m] s) => (float[k] y) { [shaper] y = Reshape(x, s) }"))
    with pytest.raises(ModelError, match=r"fails while running the model.*shaper") as caught:
        session.run({"x": np.ones(4, np.float32), "s": np.array([3])})
    assert "\n" not in caught.value.message
    assert ".cc:" not in caught.value.message


@pytest.mark.parametrize("level", LEVELS)
def test_float_weights_of_a_graph_between_rounded_activations_stay_floats(level: str) -> None:
    """The runtime would give both channels one 8-bit scale, under which the second one has no code but 0."""
    text = """m (float[1,1,1,2] x) => (float[1,2,1,2] y)
    <float[2,1,1,1] w = {100.0, 0.25}, float s = {0.125}, uint8 z = {0}> {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        c = Conv (d, w)
        p = QuantizeLinear (c, s, z)
        y = DequantizeLinear (p, s, z)
    }"""
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    x = np.array([[[[0.5, 4.0]]]], np.float32)
    found = Session(graph, level=level).run({"x": x})["y"]
    np.testing.assert_array_equal(found[0, 1, 0], [0.125, 1.0])
