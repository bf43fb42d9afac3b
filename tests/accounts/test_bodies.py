"""Control flow: the dearer branch of an If, bodies as often as they are repeated, and what cannot be known."""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from lpcompile.accounts.entries import Account
from lpcompile.accounts.graphs import float_account
from lpcompile.accounts.sizes import settled
from lpcompile.ir.graph import LpGraph
from tests.accounts.planned_networks import entries
from tests.networks import toy

M, A, C = 1024, 32, 32
FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def info(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def account(nodes: list[NodeProto], inputs: list[onnx.ValueInfoProto], **constants: np.ndarray) -> Account:
    """Of a model with output y, float[8,8]."""
    held = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", FLOAT, 8, 8)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    found = LpGraph.from_proto(model)
    found.infer_shapes()
    return float_account(found)


def branch(name: str, *nodes: NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [info(nodes[-1].output[0], FLOAT, 8, 8)])


def test_the_dearer_branch_of_an_if_counts() -> None:
    """A product of matrices whose weights stand outside, against an Add."""
    dear = branch(
        "dear",
        helper.make_node("MatMul", ["x", "w"], ["t"], "product"),
        helper.make_node("Relu", ["t"], ["d"], "clamp"),
    )
    cheap = branch("cheap", helper.make_node("Add", ["x", "x"], ["c"], "sum"))
    node = helper.make_node("If", ["flag"], ["y"], "choice", then_branch=cheap, else_branch=dear)
    w = np.ones((8, 8), np.float32)
    found = account([node], [info("x", FLOAT, 8, 8), info("flag", BOOL)], w=w)
    by = {e.node: e.by_class() for e in found.entries}
    assert by == {"choice/product": {"mac": 512 * M}, "choice/clamp": {"compare": 64 * C}}
    assert found.ace == 512 * M
    assert found.uncounted == ()


def loop(trips: str, condition: str = "", *, ends: bool = False) -> NodeProto:
    follows = helper.make_node("Not" if ends else "Identity", ["go"], ["on"])
    body = helper.make_graph(
        [
            follows,
            helper.make_node("MatMul", ["state", "w"], ["next"], "product"),
        ],
        "body",
        [info("i", INT64), info("go", BOOL), info("state", FLOAT, 8, 8)],
        [info("on", BOOL), info("next", FLOAT, 8, 8)],
    )
    return helper.make_node("Loop", [trips, condition, "x"], ["y"], "repeat", body=body)


def test_a_loop_counts_as_often_as_the_graph_says() -> None:
    w, n = np.ones((8, 8), np.float32), np.array(5)
    found = account([loop("n")], [info("x", FLOAT, 8, 8)], w=w, n=n)
    assert entries(found)["repeat/product"].by_class() == {"mac": 5 * 512 * M}
    assert entries(found)["repeat/product"].bytes == 5 * 3 * 256


def test_a_condition_that_always_holds_ends_no_loop() -> None:
    constants = {"w": np.ones((8, 8), np.float32), "n": np.array(5), "yes": np.array(True)}
    found = account([loop("n", "yes")], [info("x", FLOAT, 8, 8)], **constants)
    assert found.ace == 5 * 512 * M
    ended = account([loop("n", "yes", ends=True)], [info("x", FLOAT, 8, 8)], **constants)
    never = account([loop("n", "yes")], [info("x", FLOAT, 8, 8)], **{**constants, "yes": np.array(False)})
    for unknown in (ended, never):
        assert [u.node for u in unknown.uncounted] == ["repeat"]


def test_a_loop_that_a_call_ends_is_named() -> None:
    w = np.ones((8, 8), np.float32)
    found = account([loop("n")], [info("x", FLOAT, 8, 8), info("n", INT64)], w=w)
    assert found.entries == ()
    assert [(u.node, u.reason) for u in found.uncounted] == [
        ("repeat", "a call decides how often Loop repeats its body")
    ]


def test_a_scan_counts_every_step() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "row"], ["sum"], "sum"),
            helper.make_node("Relu", ["sum"], ["out"], "clamp"),
        ],
        "body",
        [info("state", FLOAT, 4), info("row", FLOAT, 4)],
        [info("sum", FLOAT, 4), info("out", FLOAT, 4)],
    )
    node = helper.make_node("Scan", ["start", "rows"], ["last", "all"], "scan", body=body, num_scan_inputs=1)
    axis = helper.make_node("Scan", ["start", "t"], ["last", "all"], "scan", body=body, num_scan_inputs=1,
                            scan_input_axes=[1])  # fmt: skip
    shape = np.array([8, 8])
    views = [helper.make_node("Reshape", ["all", "shape"], ["y"], "view")]
    found = account([node, *views], [info("rows", FLOAT, 16, 4)], start=np.zeros(4, np.float32), shape=shape)
    turned = helper.make_node("Transpose", ["rows"], ["t"], "turned")
    other = account(
        [turned, axis, *views], [info("rows", FLOAT, 16, 4)], start=np.zeros(4, np.float32), shape=shape
    )
    assert other.by_class() == found.by_class()
    assert {e.node: e.by_class() for e in found.entries} == {
        "scan/sum": {"residual": 16 * 4 * A},
        "scan/clamp": {"compare": 16 * 4 * C},
    }


def test_what_a_body_does_not_tell_is_named_with_its_place() -> None:
    odd = branch(
        "odd", helper.make_node("Det", ["x"], ["d"], "det"), helper.make_node("Expand", ["d", "s"], ["e"])
    )
    dear = branch("dear", helper.make_node("Exp", ["x"], ["c"], "exp"))
    node = helper.make_node("If", ["flag"], ["y"], "choice", then_branch=odd, else_branch=dear)
    inputs = [info("x", FLOAT, 8, 8), info("flag", BOOL)]
    found = account([node], inputs, s=np.array([8, 8]))
    assert [u.node for u in found.uncounted] == ["choice/det"]
    assert [e.node for e in found.entries] == ["choice/exp"]


def test_the_toy_with_a_body() -> None:
    graph = LpGraph.from_proto(ModelProto.FromString(toy("if_body").SerializeToString()))
    graph.infer_shapes()
    found = float_account(settled(graph))
    assert found.uncounted == ()
    assert any("/" in e.node and e.ace for e in found.entries)
