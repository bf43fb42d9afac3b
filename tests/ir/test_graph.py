"""The verbs of LpGraph: each edit keeps the graph valid and, where it should, the outputs."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest

from lpcompile.errors import PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from tests.support import Array, assert_graph, assert_same_outputs, conv_bn_model, parse_model, run_model

CHAIN = """
    chain (float[2,3] x) => (float[2,3] y) {
        a = Relu (x)
        b = Neg (a)
        y = Abs (b)
    }"""


def chain() -> LpGraph:
    return LpGraph.from_proto(parse_model(CHAIN))


def outputs(graph: LpGraph, x: Array | None = None) -> Array:
    verify_graph(graph)
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    feeds = None if x is None else {"x": x}
    (y,) = run_model(proto, feeds).values()
    found: Array = y
    return found


X = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)


def test_nodes_values_and_their_edges() -> None:
    graph = LpGraph.from_proto(conv_bn_model(tail="z = Relu (t)"))
    conv, bn, relu = graph.nodes()
    assert [n.name for n in graph.nodes()] == ["Conv_0", "BatchNormalization_1", "Relu_2"]
    t = graph.value("t")
    assert t.producer == conv
    assert t.consumers == [bn, relu]
    assert conv.outputs == [t]
    assert t != graph.value("y")
    assert len({t, conv.outputs[0], bn.inputs[0]}) == 1
    assert t.dtype is None
    assert [v.name for v in graph.outputs] == ["y", "z"]
    assert graph.value("y").is_output
    assert graph.value("x").is_input
    w = graph.value("w")
    assert w.is_constant
    assert w.producer is None
    assert w.shape == (8, 8, 3, 3)
    assert w.nbytes == 8 * 8 * 9 * 4 == w.values.nbytes
    assert graph.nodes("Relu", "Conv") == [conv, relu]
    with pytest.raises(KeyError):
        graph.value("nobody")
    with pytest.raises(ValueError, match="read-only"):
        w.values[0] = 0
    with pytest.raises(PassError, match="no constant"):
        _ = t.values


def test_layers_have_a_constant_float_weight_and_a_computed_input() -> None:
    graph = LpGraph.from_proto(
        parse_model("""
        g (float[2,4] x, float[4,4] v, float[1,4,5,5] i) => (float[2,4] y, float[1,4,5,5] c, float[2,4] u)
        <float[4,4] w, float[2,4] k, float[4,4,1,1] f> {
            a = MatMul (x, w)
            b = MatMul (a, v)
            u = MatMul (k, v)
            y = Gemm (b, w)
            c = ConvTranspose (i, f)
        }""")
    )
    assert [n.outputs[0].name for n in graph.layers() if n.outputs[0]] == ["a", "y", "c"]


def test_attributes_take_the_type_of_the_schema() -> None:
    graph = LpGraph.from_proto(
        parse_model("g (float[2] x) => (float[2] y) { y = LeakyRelu <alpha = 0.5> (x) }")
    )
    node = graph.nodes()[0]
    assert node.attrs["alpha"] == 0.5
    node.attrs["alpha"] = 2
    np.testing.assert_array_equal(outputs(graph, np.array([-1, 3], np.float32)), [-2, 3])
    assert node.attrs.pop("alpha") == 2.0
    assert "alpha" not in node.attrs
    assert node.attrs.get("alpha", 0.01) == 0.01


def test_set_input_adds_and_omits_optional_inputs() -> None:
    graph = LpGraph.from_proto(parse_model("g (float[2,3] x) => (float[2,3] y) { y = Clip (x) }"))
    clip = graph.nodes()[0]
    clip.set_input(2, graph.constant("high", np.float32(1)))
    assert clip.input_names == ["x", "", "high"]
    assert [v and v.name for v in clip.inputs] == ["x", None, "high"]
    np.testing.assert_array_equal(outputs(graph, X), np.minimum(X, 1))
    clip.set_input(2, None)
    assert clip.input_names == ["x"]
    np.testing.assert_array_equal(outputs(graph, X), X)


def test_add_node_and_replace_uses_in_the_middle() -> None:
    graph = chain()
    a = graph.value("a")
    neg = graph.nodes("Neg")[0]
    two = graph.constant("two", np.float32(2))
    mul = graph.add_node("Mul", [a, two], before=neg, metadata={"k": "v"})
    assert mul.outputs[0] is not None
    graph.replace_uses(a, mul.outputs[0], only=lambda n: n != mul)
    assert_graph(graph, ["a = Relu(x)", "Mul/out = Mul(a, two)", "b = Neg(Mul/out)", "y = Abs(b)"])
    assert mul.metadata == {"k": "v"}
    np.testing.assert_array_equal(outputs(graph, X), 2 * np.maximum(X, 0))


@pytest.mark.parametrize("source", ["a", "x", "c", "y2"])
def test_a_replaced_graph_output_keeps_its_name(source: str) -> None:
    model = parse_model(
        f"{CHAIN[:-5]} y2 = Exp (a) }}".replace("=> (float[2,3] y)", "=> (float[2,3] y, float[2,3] y2)")
    )
    graph = LpGraph.from_proto(model)
    new = graph.constant("c", X) if source == "c" else graph.value(source)
    graph.replace_uses(graph.value("y"), new)
    verify_graph(graph)
    assert [v.name for v in graph.outputs] == ["y", "y2"]
    relu = np.maximum(X, 0)
    wanted = {"a": relu, "x": X, "c": X, "y2": np.exp(relu)}[source]
    found = run_model(graph.to_proto(), {"x": X})
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["y2"], np.exp(relu), rtol=1e-6)
    assert ("Identity" in graph.ops()) == (source != "a")


@pytest.mark.parametrize("op", ["Relu", "Neg", "Abs"])
def test_bypass_at_every_place(op: str) -> None:
    graph = chain()
    graph.bypass(graph.nodes(op)[0])
    functions: dict[str, Callable[[Array], Array]] = {
        "Relu": lambda v: np.maximum(v, 0),
        "Neg": np.negative,
        "Abs": np.abs,
    }
    wanted = X
    for name, function in functions.items():
        wanted = wanted if name == op else function(wanted)
    np.testing.assert_array_equal(outputs(graph, X), wanted)
    assert [v.name for v in graph.outputs] == ["y"]


def test_bypass_of_the_only_node_leaves_an_identity() -> None:
    graph = LpGraph.from_proto(parse_model("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }"))
    graph.bypass(graph.nodes()[0])
    assert_graph(graph, ["y = Identity(x)"])
    np.testing.assert_array_equal(outputs(graph, X), X)


def test_remove_then_fill_the_same_name() -> None:
    graph = chain()
    last = graph.nodes("Abs")[0]
    b = last.inputs[0]
    graph.remove(last)
    graph.add_node("Exp", [b], ["y"], name=last.name)
    np.testing.assert_allclose(outputs(graph, X), np.exp(-np.maximum(X, 0)), rtol=1e-6)


def test_replace_by_two_nodes() -> None:
    graph = chain()
    neg = graph.nodes("Neg")[0]
    exp = graph.add_node("Exp", [neg.inputs[0]])
    log = graph.add_node("Log", [exp.outputs[0]])
    graph.replace(neg, [exp, log])
    np.testing.assert_allclose(outputs(graph, X), np.maximum(X, 0), rtol=1e-6)


def test_set_weights_leaves_shared_ones_alone_and_keeps_names_that_are_free() -> None:
    model = parse_model("""
        g (float[2,4] x) => (float[2,4] y, float[2,4] z) <float[4,4] w, float[4,4] v> {
            y = Gemm (x, w)
            t = Gemm (x, w)
            z = Gemm (t, v)
        }""")
    graph = LpGraph.from_proto(model)
    first, _, third = graph.nodes()
    graph.set_weights(first, np.eye(4), np.ones(4))  # float64 becomes the type of the weight
    graph.set_weights(third, np.eye(4), None)
    verify_graph(graph)
    assert first.input_names == ["x", "Gemm_0/weight", "Gemm_0/bias"]
    assert third.input_names == ["t", "v"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    w = onnx.numpy_helper.to_array(model.graph.initializer[0])
    found = run_model(graph.to_proto(), {"x": x})
    np.testing.assert_array_equal(found["y"], x + 1)
    np.testing.assert_allclose(found["z"], x @ w, rtol=1e-5)
    graph.set_weights(first, 2 * np.eye(4), np.zeros(4))
    assert first.input_names == ["x", "Gemm_0/weight", "Gemm_0/bias"]
    np.testing.assert_array_equal(run_model(graph.to_proto(), {"x": x})["y"], 2 * x)


def test_a_copy_is_independent() -> None:
    model = conv_bn_model()
    graph = LpGraph.from_proto(model)
    graph.metadata["k"] = "v"
    twin = graph.copy()
    twin.bypass(twin.nodes("BatchNormalization")[0])
    twin.nodes("Conv")[0].attrs["group"] = 1
    twin.nodes("Conv")[0].metadata["m"] = "n"
    twin.metadata["k"] = "w"
    assert graph.ops() == ["Conv", "BatchNormalization"]
    assert graph.metadata == {"k": "v"}
    assert not graph.nodes("Conv")[0].metadata
    assert_same_outputs(model, graph.to_proto())
    assert graph.value("t") != twin.value("y")
    with pytest.raises(PassError, match="another graph"):
        graph.replace_uses(graph.value("t"), twin.value("y"))


def test_sole_producer() -> None:
    graph = LpGraph.from_proto(conv_bn_model())
    t = graph.value("t")
    assert graph.sole_producer(t, "Conv") == graph.nodes("Conv")[0]
    assert graph.sole_producer(t, op="Conv") == graph.nodes("Conv")[0]
    assert graph.sole_producer(t, "Gemm") is None
    assert graph.sole_producer(graph.value("y"), "BatchNormalization") is None
    assert graph.sole_producer(graph.value("x"), "Conv") is None
    assert graph.sole_producer(None, "Conv") is None
    shared = LpGraph.from_proto(conv_bn_model(tail="z = Relu (t)"))
    assert shared.sole_producer(shared.value("t"), "Conv") is None


def test_fresh_names_are_stable_and_unique() -> None:
    graph = chain()
    assert graph.fresh("a") == "a_1"
    assert graph.fresh("new") == "new"
    names = [graph.constant("k", np.float32(i)).name for i in range(3)]
    assert names == ["k", "k_1", "k_2"]
    assert graph.add_node("Relu", [graph.value("a")], name="Relu_0").name == "Relu_0_1"


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_four_bit_constants_are_exported_packed(dtype: type) -> None:
    graph = LpGraph.from_proto(
        parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[3,2] x) => (float[3,2] y) <float scale = {0.5}> { y = Identity (x) }""")
    )
    codes: Array = np.array([[1, 2], [3, 4], [5, 7]]).astype(dtype)
    scale = graph.constant("s", np.float32(0.5))
    dequantized = graph.add_node("DequantizeLinear", [graph.constant("codes", codes), scale])
    added = graph.add_node("Add", [graph.value("x"), dequantized.outputs[0]])
    assert added.outputs[0] is not None
    graph.replace_uses(graph.value("y"), added.outputs[0])
    proto = graph.to_proto()
    stored = {t.name: t for t in proto.graph.initializer}["codes"]
    assert len(stored.raw_data) == 3
    zeros = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(run_model(proto, {"x": zeros})["y"], codes.astype(np.float32) / 2)
    back = LpGraph.from_proto(proto)
    np.testing.assert_array_equal(back.value("codes").values, codes)


def test_adding_a_node_twice_or_over_a_filled_name_is_an_error() -> None:
    graph = chain()
    with pytest.raises(PassError, match="filled already"):
        graph.add_node("Exp", [graph.value("a")], ["b"])
    with pytest.raises(PassError, match="exists already"):
        graph.add_input("a", np.dtype(np.float32), [2])
