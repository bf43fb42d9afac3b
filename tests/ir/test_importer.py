"""What loading makes of models that are odd, and what it says of models that are wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from tests.support import assert_same_outputs, conv_bn_model, parse_model, run_model


def round_trip(model: ModelProto, rtol: float = 0.0) -> LpGraph:
    graph = LpGraph.from_proto(model)
    verify_graph(graph)
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(model, after, rtol)
    return graph


def test_constant_nodes_become_initialisers() -> None:
    graph = round_trip(
        parse_model("""
        g (float[2] x) => (float[2] y, int64[2] i, float[2] f, float[1] k) {
            t = Constant <value = float[2] {1.0, 2.0}> ()
            i = Constant <value_ints = [3, 4]> ()
            f = Constant <value_floats = [0.5, 1.5]> ()
            s = Constant <value_float = 3.0> ()
            k = Constant <value = float[1] {7.0}> ()
            p = Add (x, t)
            y = Mul (p, s)
        }""")
    )
    assert graph.ops() == ["Add", "Mul"]
    assert [n.name for n in graph.nodes()] == ["Add_5", "Mul_6"]
    assert graph.value("s").shape == ()
    assert [c.name for c in graph.constants()] == ["t", "i", "f", "s", "k"]


def test_string_constants() -> None:
    graph = round_trip(
        parse_model('g (string[2] x) => (string[1] s) { s = Constant <value_strings = ["a"]> () }')
    )
    assert graph.value("s").values.tolist() == ["a"]


def test_duplicate_and_missing_node_names() -> None:
    model = parse_model("""
        g (float[2] x) => (float[2] y) {
            [same] a = Relu (x)
            b = Relu (a)
            c = Relu (b)
            [Relu_2] y = Relu (c)
        }""")
    model.graph.node[1].name = "same"  # ONNX Runtime would refuse it
    graph = LpGraph.from_proto(model)
    x = np.array([-1, 2], np.float32)
    np.testing.assert_array_equal(run_model(graph.to_proto(), {"x": x})["y"], [0, 2])
    assert [n.name for n in graph.nodes()] == ["same", "same_1", "Relu_2_1", "Relu_2"]
    assert [n.name for n in LpGraph.from_proto(graph.to_proto()).nodes()] == [n.name for n in graph.nodes()]


def test_weights_that_are_inputs_as_well() -> None:
    model = conv_bn_model()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    model.opset_import[0].version = 8
    graph = LpGraph.from_proto(model)
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.ir_version == 4
    assert graph.notes == [
        "6 initialisers listed as graph inputs became constants",
        "IR version raised from 3 to 4",
    ]
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(model, after)


def test_an_input_with_a_default_becomes_a_constant() -> None:
    model = parse_model("g (float[2] x, float[2] d) => (float[2] y) { y = Add (x, d) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "d"))
    graph = LpGraph.from_proto(model)
    assert graph.notes == ["1 graph input with default values became constants"]
    assert_same_outputs(model, graph.to_proto())


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] x) { }",
        "g (float[2] x) => (float[2] x, float[2] y) { y = Relu (x) }",
        "g (float[2] x) => (float[2] w, float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }",
        "g (float[N] x) => (float[N] y) { y = Relu (x) }",
        "g (float x) => (float y) { y = Relu (x) }",
    ],
)
def test_graphs_with_hardly_anything_in_them(text: str) -> None:
    round_trip(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + text))


def test_sequences_and_strings_keep_their_types() -> None:
    model = parse_model("""
        g (float[2] x, seq(float[2]) s, string[1] t) => (seq(float[2]) r, string[1] u, float[2] y)
        {
            r = SequenceInsert (s, x)
            u = Identity (t)
            n = SequenceLength (r)
            one = Constant <value_int = 1> ()
            n0 = Sub (n, one)
            y = SequenceAt (r, n0)
        }""")
    graph = LpGraph.from_proto(model)
    assert graph.value("s").dtype is None
    assert graph.value("t").dtype == np.dtype(object)
    feeds: dict[str, Any] = {
        "x": np.ones(2, np.float32),
        "s": [np.zeros(2, np.float32)],
        "t": np.array(["é"], object),
    }
    before, after = run_model(model, feeds), run_model(graph.to_proto(), feeds)
    np.testing.assert_array_equal(before["y"], after["y"])
    np.testing.assert_array_equal(before["r"], after["r"])
    assert before["u"].tolist() == after["u"].tolist() == ["é"]


def test_nodes_of_other_domains_pass() -> None:
    model = parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "unused" : 3]>
        g (float[2,4] x) => (float[2,4] y) { t = com.microsoft.Gelu (x)  y = Relu (t) }""")
    graph = round_trip(model)
    assert graph.ops() == ["com.microsoft::Gelu", "Relu"]
    assert not graph.nodes("Gelu")
    assert {o.domain: o.version for o in graph.to_proto().opset_import} == {"": 17, "com.microsoft": 1}


def test_the_long_name_of_the_default_domain() -> None:
    model = parse_model("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    assert round_trip(model).nodes("Relu")[0].domain == ""


def test_nodes_out_of_order_are_sorted() -> None:
    model = parse_model("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Neg (a)  y = Exp (b) }")
    nodes = list(model.graph.node)
    shuffled = ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend([nodes[2], nodes[0], nodes[1]])
    assert_same_outputs(model, LpGraph.from_proto(shuffled).to_proto())


def test_sparse_initialisers_are_written_out() -> None:
    dense = np.array([[0, 2, 0], [3, 0, 0]], np.float32)
    for indices in (np.array([1, 3]), np.array([[0, 1], [1, 0]])):
        model = parse_model("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }")
        model.graph.node[0].op_type = "Add"
        model.graph.node[0].input.append("w")
        values = helper.make_tensor("w", TensorProto.FLOAT, [2], [2.0, 3.0])
        places = helper.make_tensor("i", TensorProto.INT64, indices.shape, indices.flatten())
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))
        graph = LpGraph.from_proto(model)
        np.testing.assert_array_equal(graph.value("w").values, dense)
        zeros = {"x": np.zeros((2, 3), np.float32)}
        np.testing.assert_array_equal(run_model(graph.to_proto(), zeros)["y"], dense)


def test_functions_of_the_model_are_inlined() -> None:
    model = parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = own.twice (x)  y = Add (t, w) }
        <domain: "own", opset_import: ["" : 17]>
        twice (a) => (b) { b = Add (a, a) }""")
    graph = LpGraph.from_proto(model)
    assert graph.ops() == ["Add", "Add"]
    assert not graph.functions
    assert graph.notes == ["1 model-local function was inlined (twice)"]
    np.testing.assert_array_equal(
        run_model(graph.to_proto(), {"x": np.array([1, 2], np.float32)})["y"], np.array([3, 6])
    )


def broken(edit: Callable[[ModelProto], object]) -> ModelProto:
    model = conv_bn_model()
    edit(model)
    return model


def first(model: ModelProto) -> TensorProto:
    tensor: TensorProto = model.graph.initializer[0]
    return tensor


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.ClearField("graph"), "no ONNX model"),
        (lambda m: m.ClearField("ir_version"), "no ONNX model"),
        (lambda m: m.graph.ClearField("output"), "no outputs"),
        (lambda m: m.ClearField("opset_import"), "which version of the ONNX operator set"),
        (lambda m: m.graph.node[0].input.append("ghost"), "input 'ghost' is defined nowhere"),
        (lambda m: m.graph.output.add(name="ghost"), "nothing computes the graph output 'ghost'"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "'t' is defined twice"),
        (lambda m: m.graph.initializer.append(first(m)), "is defined twice"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "two graph inputs are called 'x'"),
        (lambda m: first(m).dims.__setitem__(0, -8), "impossible dimensions"),
        (lambda m: first(m).dims.__setitem__(0, 2**60), "impossible dimensions"),
        (lambda m: first(m).dims.__setitem__(0, 2**30), "bytes but holds"),
        (lambda m: setattr(first(m), "raw_data", b"abc"), "bytes but holds 3"),
        (lambda m: setattr(first(m), "data_type", 99), "unknown element type 99"),
        (lambda m: setattr(first(m), "name", ""), "has no name"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "cycle"),
        (lambda m: setattr(first(m), "data_location", TensorProto.EXTERNAL), "in another file"),
    ],
)
def test_a_model_that_contradicts_itself(edit: Callable[[ModelProto], object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        LpGraph.from_proto(broken(edit))
    assert "\n" not in str(caught.value)


def test_typed_fields_of_another_length() -> None:
    model = parse_model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }")
    model.graph.initializer[0].dims[0] = 1000
    with pytest.raises(ModelError, match="needs 1000 values but holds 2"):
        LpGraph.from_proto(model)
