"""Control-flow bodies stay as they are, and what they capture is kept."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lpcompile.errors import ModelError, PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from tests.support import assert_same_outputs, run_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] unused = {0, 0}> {
    a = Relu (x)
    b = Neg (a)
    y = If (c) <
        then_branch = yes () => (float[2] p) { one = Add (a, w)  p = Exp (one) },
        else_branch = no () => (float[2] q) { q = If (c) <
            then_branch = inner () => (float[2] r) { r = Identity (a) },
            else_branch = other () => (float[2] s) { s = Mul (b, w) }
        > }
    >
}"""


def model() -> ModelProto:
    return onnx.parser.parse_model(TEXT)


@pytest.mark.parametrize("condition", [True, False])
def test_round_trip_keeps_captured_values(condition: bool) -> None:
    graph = LpGraph.from_proto(model())
    verify_graph(graph)
    feeds = {"c": np.array(condition), "x": np.array([3, -4], np.float32)}
    assert_same_outputs(model(), graph.to_proto(), feeds=feeds)
    assert [c.name for c in graph.constants()] == ["w"]
    assert graph.ops() == ["Relu", "Neg", "If"]
    assert graph.value("a").used_in_subgraph
    assert graph.value("w").used_in_subgraph
    assert not graph.value("x").used_in_subgraph


def test_walk_enters_bodies() -> None:
    graph = LpGraph.from_proto(model())
    assert [n.op for n in graph.walk()] == ["Relu", "Neg", "If", "Add", "Exp", "If", "Identity", "Mul"]
    branches = graph.nodes("If")[0].subgraphs
    assert [b.attribute for b in branches] == ["then_branch", "else_branch"]
    add = next(branches[0].nodes())
    assert (add.input_names, add.output_names, add.attrs, add.domain) == (["a", "w"], ["one"], {}, "")


def test_captured_values_keep_their_names() -> None:
    graph = LpGraph.from_proto(model())
    neg = graph.nodes("Neg")[0]
    with pytest.raises(PassError, match="a control-flow body reads 'b'"):
        graph.remove(neg)
    assert graph.sole_producer(graph.value("a"), "Relu") is None
    graph.bypass(neg)  # b is a now, under its own name
    verify_graph(graph)
    feeds = {"c": np.array(False), "x": np.array([3, -4], np.float32)}
    np.testing.assert_array_equal(run_model(graph.to_proto(), feeds)["y"], [3, 0])
    exp = graph.add_node("Exp", [graph.value("x")])
    assert exp.outputs[0] is not None
    graph.replace_uses(graph.value("b"), exp.outputs[0])
    graph.replace_uses(graph.value("a"), graph.constant("k", np.array([5, 6], np.float32)))
    verify_graph(graph)
    found = run_model(graph.to_proto(), feeds)["y"]
    np.testing.assert_allclose(found, np.exp([3, -4]) * [1, 2], rtol=1e-6)
    feeds["c"] = np.array(True)
    np.testing.assert_allclose(run_model(graph.to_proto(), feeds)["y"], np.exp([6, 8]), rtol=1e-6)


def test_new_names_stay_clear_of_those_inside() -> None:
    graph = LpGraph.from_proto(model())
    assert graph.fresh("one") == "one_1"
    assert graph.fresh("r") == "r_1"


def test_loop_and_scan() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[3,2] x) => (float[2] total, float[3,2] sums) <float[2] start = {0, 0}, float[2] w = {1, 2}> {
        total, sums = Scan <num_scan_inputs = 1,
            body = step (float[2] state, float[2] row) => (float[2] next, float[2] out) {
                scaled = Mul (row, w)
                next = Add (state, scaled)
                out = Identity (next)
            }> (start, x)
    }"""
    scan = onnx.parser.parse_model(text)
    graph = LpGraph.from_proto(scan)
    verify_graph(graph)
    assert_same_outputs(scan, graph.to_proto())
    assert [n.op for n in graph.walk()] == ["Scan", "Mul", "Add", "Identity"]


def test_a_body_that_reads_what_is_not_there() -> None:
    broken = onnx.parser.parse_model(TEXT.replace("Identity (a)", "Identity (ghost)"))
    with pytest.raises(ModelError, match="a body reads 'ghost'"):
        LpGraph.from_proto(broken)
