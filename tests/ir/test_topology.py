import networkx as nx
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.topology import digraph
from tests.support import parse_model


def diamond() -> LpGraph:
    return LpGraph.from_proto(
        parse_model("""
        g (float[2] x) => (float[2] y, float[2] a) {
            [top] a = Relu (x)
            [left] b = Neg (a)
            [right] c = Exp (a)
            [more] d = Log (c)
            [join] y = Add (b, d)
        }""")
    )


def test_edges_name_what_flows() -> None:
    edges = {(a, b): tensors for a, b, tensors in digraph(diamond()).edges(data="tensors")}
    assert edges == {
        ("top", "left"): ("a",),
        ("top", "right"): ("a",),
        ("right", "more"): ("c",),
        ("left", "join"): ("b",),
        ("more", "join"): ("d",),
    }


def test_what_a_body_reads_is_an_edge() -> None:
    graph = LpGraph.from_proto(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) {
            [early] a = Relu (x)
            [other] b = Neg (x)
            [branch] y = If (c) <then_branch = t () => (float[2] p) { p = Add (a, b) },
                                 else_branch = e () => (float[2] q) { q = Neg (a) }>
        }""")
    )
    assert set(digraph(graph).edges) == {("early", "branch"), ("other", "branch")}


@pytest.mark.thorough
@given(st.data())
def test_any_dag_in_any_order_is_sorted(data: st.DataObject) -> None:
    """Networkx is the oracle: no edge leads backwards, and nothing is lost."""
    size = data.draw(st.integers(1, 8))
    inputs = [data.draw(st.lists(st.integers(0, i), min_size=1, max_size=3)) for i in range(size)]
    nodes = [
        onnx.helper.make_node("Sum", [f"t{j}" for j in reads], [f"t{i + 1}"], name=f"n{i + 1}")
        for i, reads in enumerate(inputs)
    ]
    info = [onnx.helper.make_tensor_value_info(n, 1, [2]) for n in ("t0", f"t{size}")]
    shuffled = data.draw(st.permutations(nodes))
    model = onnx.helper.make_model(onnx.helper.make_graph(shuffled, "g", info[:1], info[1:]), ir_version=8)
    graph = LpGraph.from_proto(model)
    order = [n.name for n in graph.nodes()]
    assert sorted(order) == sorted(n.name for n in nodes)
    view = digraph(graph)
    assert nx.is_directed_acyclic_graph(view)
    assert all(order.index(a) < order.index(b) for a, b in view.edges)
    onnx.checker.check_model(graph.to_proto(), full_check=True)
