"""A part of a graph computes what the whole graph does, from its inputs or from inner tensors that are fed."""

import numpy as np
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.part import part_of
from lpcompile.runtime.session import Session
from tests.support import parse_model

TEXT = """m (float[N,4] x, bool p) => (float[N,4] y, float[N,4] z) <float[4,4] u, float[4,4] v> {
    [first] t = MatMul (x, u)
    [cut] a, b = Split <axis = 1> (t)
    [joined] c = Concat <axis = 1> (b, a)
    [branch] d = If (p) <then_branch = g () => (float[N,4] k) { k = Mul (c, t) },
                         else_branch = h () => (float[N,4] l) { l = Sub (c, t) }>
    [last] y = MatMul (d, v)
    [other] z = Relu (t) }"""


def whole() -> tuple[LpGraph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    graph = LpGraph.from_proto(parse_model(TEXT))
    graph.infer_shapes()
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (3, 4)).astype(np.float32), "p": np.array(False)}
    return graph, feeds, Session(graph, outputs=["t", "a", "b", "c", "d", "y"]).run(feeds)


@pytest.mark.parametrize(
    ("fed", "outputs", "left"),
    [
        ([], ["c"], {"first", "cut", "joined"}),
        (["t"], ["y"], {"cut", "joined", "branch", "last"}),
        (["c", "t"], ["d", "y"], {"branch", "last"}),
        (["a"], ["c"], {"first", "cut", "joined"}),  # its other output is needed: it runs again
    ],
)
def test_only_what_is_needed_is_left_and_computes_the_same(
    fed: list[str], outputs: list[str], left: set[str]
) -> None:
    graph, feeds, known = whole()
    part = part_of(graph, outputs, fed)
    assert {n.name for n in part.nodes()} == left
    found = Session(part.to_proto()).run({**feeds, **{name: known[name] for name in fed}})
    assert list(found) == outputs
    for name in outputs:
        np.testing.assert_array_equal(found[name], known[name])


def test_the_graph_stays_as_it_is() -> None:
    graph, _, _ = whole()
    before = graph.to_proto().SerializeToString(deterministic=True)
    part = part_of(graph, ["y"], ["c", "t"])
    part.set_weights(part.node("last"), np.zeros((4, 4), np.float32), None)
    assert graph.to_proto().SerializeToString(deterministic=True) == before
