"""Scales and shifts by channel, against ONNX Runtime's float operators."""

import numpy as np
import pytest

from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, random_feeds, run_model

CONSTANTS = "float[4,1,1] c, float[3] last, float[4] scale, float[4] beta, float[4] mean, float[4] var"
NODES = {
    "y = BatchNormalization (x, scale, beta, mean, var)": 2,
    "y = BatchNormalization <epsilon = 0.5> (x, scale, beta, mean, var)": 2,
    "y = Add (x, c)": 2,
    "y = Add (c, x)": 2,
    "y = Sub (x, c)": 2,
    "y = Sub (c, x)": 2,
    "y = Mul (x, c)": 2,
    "y = Div (x, c)": 2,
    "y = Mul (x, last)": 0,
}


def graph_of(node: str, x: str = "float[2,4,5,3]") -> LpGraph:
    return LpGraph.from_proto(parse_model(f"g ({x} x) => ({x} y) <{CONSTANTS}> {{ {node} }}"))


@pytest.mark.parametrize("node", NODES)
def test_scale_and_shift_are_the_operator(node: str) -> None:
    graph = graph_of(node)
    norm = channel_norm(graph.nodes()[0])
    assert norm is not None
    assert norm.trailing == NODES[node]
    feeds = random_feeds(graph.to_proto())
    wide = (-1, *[1] * norm.trailing)
    found = feeds["x"] * norm.scale.reshape(wide) + norm.shift.reshape(wide)
    np.testing.assert_allclose(found, run_model(graph.to_proto(), feeds)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("node", ["y = Div (c, x)", "y = Add (x, x)", "y = Relu (x)", "y = Max (x, c)"])
def test_what_is_none(node: str) -> None:
    assert channel_norm(graph_of(node).nodes()[0]) is None


def test_a_constant_that_broadcasts_the_activation_is_none() -> None:
    text = f"g (float[2,1,5,3] x) => (float[2,4,5,3] y) <{CONSTANTS}> {{ y = Add (x, c) }}"
    assert channel_norm(LpGraph.from_proto(parse_model(text)).nodes()[0]) is None
