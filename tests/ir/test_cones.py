"""Nodes that are one function of one tensor together."""

import numpy as np
import pytest

from lpcompile.ir.cones import MOST_INNER, table_cones
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, random_feeds, run_model

NUMBERS = {"root": 1.4142135, "one": 1, "half": 0.5, "three": 3, "six": 6, "lo": 0}
CONES = {
    "silu": "s = Sigmoid (x)\ny = Mul (x, s)",
    "gelu": "a = Div (x, root)\nb = Erf (a)\nc = Add (b, one)\nd = Mul (x, c)\ny = Mul (d, half)",
    "swish of a clamp": "a = Add (x, three)\nb = Clip (a, lo, six)\nc = Mul (x, b)\ny = Div (c, six)",
    "quotient": "a = Exp (x)\nb = Add (a, one)\ny = Div (a, b)",
    "minus": "a = Tanh (x)\ny = Sub (a, x)",
}


def graph_of(nodes: str, shape: str = "1,3,4") -> LpGraph:
    words = nodes.replace(",", " ").replace(")", " ").split()
    used = ", ".join(f"float {n} = {{{v}}}" for n, v in NUMBERS.items() if n in words) or "float unused"
    text = f"g (float[{shape}] x) => (float[{shape}] y) <{used}> {{ {nodes} }}"
    model = parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    return graph


@pytest.mark.parametrize("kind", CONES)
def test_the_function_is_that_of_the_nodes(kind: str) -> None:
    graph = graph_of(CONES[kind])
    cone = table_cones(graph)["y"]
    assert cone.source.name == "x"
    assert cone.inner == {n.name for n in graph.nodes()} - {"y"}
    feeds = random_feeds(graph.to_proto())
    wanted = run_model(graph.to_proto(), feeds)["y"]
    np.testing.assert_allclose(cone.function(feeds["x"].astype(np.float64)), wanted, atol=1e-5)


def test_one_node_is_no_cone() -> None:
    assert table_cones(graph_of("y = Sigmoid (x)")) == {}


def test_a_node_apart_belongs_to_none() -> None:
    assert table_cones(graph_of(CONES["silu"]), {"s"}) == {}


def test_the_clamp_of_a_layer_is_a_source() -> None:
    assert table_cones(graph_of("a = Relu (x)\ns = Sigmoid (a)\ny = Mul (a, s)"))["y"].source.name == "a"


def test_two_tensors_are_no_cone() -> None:
    text = "g (float[2] x, float[2] z) => (float[2] y) { a = Sigmoid (x)\n y = Mul (z, a) }"
    assert table_cones(LpGraph.from_proto(parse_model(text))) == {}


def test_long_cones_are_cut() -> None:
    nodes = (
        "t0 = Add (x, x)\n" + "".join(f"t{i + 1} = Add (t{i}, t{i})\n" for i in range(40)) + "y = Neg (t40)"
    )
    found = table_cones(graph_of(nodes))
    assert max(len(c.inner) for c in found.values()) <= MOST_INNER


def test_no_cone_reaches_beyond_what_is_held() -> None:
    graph = graph_of("a = Tanh (x)\nb = Neg (a)\ny = Abs (b)")
    assert table_cones(graph)["y"].source.name == "x"
    assert table_cones(graph, held={"a"})["y"].source.name == "a"
    assert table_cones(graph, held={"b"}).keys() == {"b"}
