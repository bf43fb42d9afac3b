"""What counts as a model's constants, and when it is too large."""

import numpy as np
import pytest
from onnx import ModelProto, helper

from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.sizes import FILE_GROWTH_BYTES, Sizes, constant_bytes
from tests.support import parse_model

PLAIN = "g (float[1,8] x) => (float[1,8] y) <float[8,8] w, float[8] b> { h = MatMul (x, w)  y = Add (h, b) }"
ONES = ", ".join("1" * 64)
BODY = f"""g (bool c, float[64] x) => (float[64] y) {{
    y = If (c) <then_branch = t () => (float[64] p) <float[64] w = {{{ONES}}}> {{ p = Add (x, w) }},
                else_branch = e () => (float[64] q) {{ q = Identity (x) }}>
}}"""


def with_constant_node(model: ModelProto) -> ModelProto:
    """The same model with its initialisers written as Constant nodes."""
    found = ModelProto()
    found.CopyFrom(model)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes += model.graph.node
    del found.graph.initializer[:], found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def test_initialisers_count_from_64_elements_on() -> None:
    model = parse_model(PLAIN)
    assert constant_bytes(model) == 8 * 8 * 4
    assert Sizes.of_proto(model) == Sizes(256, model.ByteSize())


def test_constant_nodes_of_the_input_count_as_initialisers() -> None:
    graph = LpGraph.from_proto(with_constant_node(parse_model(PLAIN)))
    assert Sizes.of_graph(graph, 7) == Sizes(256, 7)


def test_bodies_count() -> None:
    model = parse_model(BODY, check=False)
    assert constant_bytes(model) == 256
    assert Sizes.of_graph(LpGraph.from_proto(model), 0).constant_bytes == 256


def test_constant_nodes_of_bodies_count() -> None:
    model = parse_model(BODY, check=False)
    body = model.graph.node[0].attribute[0].g
    node = helper.make_node("Constant", [], ["w"], value=body.initializer[0])
    del body.initializer[:]
    body.node.insert(0, node)
    assert constant_bytes(model) == 256
    assert Sizes.of_graph(LpGraph.from_proto(model), 0).constant_bytes == 256


def test_packed_types_count_as_they_are_stored() -> None:
    model = parse_model(PLAIN)
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", 22, [8, 8], np.zeros(64, np.int8))  # INT4
    )
    assert constant_bytes(model) == 32


@pytest.mark.parametrize(
    ("found", "excess"),
    [
        (Sizes(100, 1000 + FILE_GROWTH_BYTES), ""),
        (Sizes(99, 10), ""),
        (Sizes(101, 10), "its initialisers take 101 bytes, those of the input 100"),
        (Sizes(100, 1001 + FILE_GROWTH_BYTES), "the file would grow from 1000 to 66537 bytes"),
    ],
)
def test_the_bounds(found: Sizes, excess: str) -> None:
    assert found.excess(Sizes(100, 1000)) == excess
