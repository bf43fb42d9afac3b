"""What a written model holds besides its nodes."""

import numpy as np
import onnx
from onnx import ModelProto, helper

from lpcompile.ir.graph import LpGraph
from tests.support import conv_bn_model, parse_model


def decorated() -> ModelProto:
    model = conv_bn_model()
    model.doc_string, model.domain, model.model_version = "about", "org.example", 7
    model.producer_name = "somebody"
    model.graph.doc_string = "a graph"
    model.metadata_props.add(key="author", value="me")
    model.graph.metadata_props.add(key="part", value="all")
    model.graph.node[0].metadata_props.add(key="where", value="layer 1")
    model.graph.node[0].doc_string = "first"
    model.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("t", 1, ["batch", 8, 6, None]))
    annotation = model.graph.quantization_annotation.add(tensor_name="t")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    return model


def test_everything_said_about_a_model_survives() -> None:
    model = decorated()
    graph = LpGraph.from_proto(model)
    assert graph.metadata == {"author": "me"}
    assert graph.nodes("Conv")[0].metadata == {"where": "layer 1"}
    graph.metadata["lpcompile.version"] = "x"
    graph.nodes("Conv")[0].metadata["lpcompile.format"] = "int4"
    after = graph.to_proto()
    assert after.producer_name == "lpcompile"
    assert (after.doc_string, after.domain, after.model_version) == ("about", "org.example", 7)
    assert after.graph.doc_string == "a graph"
    assert after.graph.name == model.graph.name
    assert {e.key: e.value for e in after.metadata_props} == {"author": "me", "lpcompile.version": "x"}
    assert after.graph.metadata_props == model.graph.metadata_props
    conv = after.graph.node[0]
    assert {e.key: e.value for e in conv.metadata_props} == {"where": "layer 1", "lpcompile.format": "int4"}
    assert conv.doc_string == "first"
    assert list(after.graph.value_info) == list(model.graph.value_info)
    assert after.graph.quantization_annotation == model.graph.quantization_annotation
    assert list(after.graph.input) == list(model.graph.input)
    assert list(after.graph.output) == list(model.graph.output)


def test_the_same_graph_gives_the_same_bytes() -> None:
    graph = LpGraph.from_proto(decorated())
    written = {g.to_proto().SerializeToString(deterministic=True) for g in (graph, graph, graph.copy())}
    assert len(written) == 1
    (first,) = written
    again = LpGraph.from_proto(onnx.load_from_string(first)).to_proto()
    assert again.SerializeToString(deterministic=True) == first


def test_dead_nodes_and_weights_are_dropped() -> None:
    graph = LpGraph.from_proto(
        parse_model("""
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
            dead = Add (x, w)
            deader = Neg (dead)
            y = Add (x, v)
        }""")
    )
    after = graph.to_proto()
    assert [n.output[0] for n in after.graph.node] == ["y"]
    assert [t.name for t in after.graph.initializer] == ["v"]
    assert not after.graph.value_info


def test_functions_are_written_where_they_are_used() -> None:
    graph = LpGraph.from_proto(parse_model("g (float[2] x) => (float[2] y) { y = Relu (x) }"))
    for name, body in (("Double", "Add"), ("Unused", "Mul")):
        node = helper.make_node(body, ["a", "a"], ["b"])
        opsets = [helper.make_opsetid("", 17)]
        graph.functions["lpcompile", name] = helper.make_function(
            "lpcompile", name, ["a"], ["b"], [node], opsets
        )
    relu = graph.nodes()[0]
    double = graph.add_node("Double", [graph.value("x")], domain="lpcompile")
    relu.set_input(0, double.outputs[0])
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert [f.name for f in after.functions] == ["Double"]
    assert {o.domain: o.version for o in after.opset_import} == {"": 17, "lpcompile": 1}
    assert after.ir_version >= 8


def test_declared_types_are_written() -> None:
    graph = LpGraph.from_proto(conv_bn_model())
    graph.set_type(graph.value("t"), np.dtype(np.float32), ("batch", 8, None, 6))
    (info,) = graph.to_proto().graph.value_info
    assert info == helper.make_tensor_value_info("t", 1, ["batch", 8, None, 6])
    graph.set_type(graph.value("t"), None)
    assert not graph.to_proto().graph.value_info
