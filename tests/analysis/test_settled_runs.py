"""Runs that start behind what is settled give what a run of the whole graph gives, and run no settled node again."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.analysis.settled_runs import HELD_BYTES, SettledRuns
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from tests.support import parse_model

RESIDUAL = """m (float[N,4] x) => (float[N,C] y) <float[4,4] u, float[4,4] v, float[4,4] w, float[4,3] z> {
    t = Tanh (x)
    a = MatMul (t, u)
    s = Sigmoid (x)
    b = Add (a, s)
    r = Relu (b)
    c = MatMul (r, v)
    d = Add (c, b)
    e = MatMul (d, w)
    f = Add (e, s)
    y = MatMul (f, z) }"""
INPUTS = ["t", "r", "d", "f"]  # of the layers, in order


class Opened:
    """An observer that remembers the operators that each session would run."""

    def __init__(self) -> None:
        self.ops: list[set[str]] = []

    def __call__(self, graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
        inner = [t for t in tensors if not graph.value(t).is_input]
        needed, names = [graph.value(t).producer for t in inner], set()
        while needed:
            node = needed.pop()
            if node is not None and node.name not in names:
                names.add(node.name)
                needed += [v.producer for v in node.inputs if v is not None]
        self.ops.append({graph.node(n).op for n in names})
        return observer(graph, tensors, threads=1)


def network(text: str = RESIDUAL) -> tuple[LpGraph, list[Feeds]]:
    graph = LpGraph.from_proto(parse_model(text))
    rng = np.random.default_rng(4)
    graph.infer_shapes()
    return graph, [{"x": rng.normal(0, 1, (n, 4)).astype(np.float32)} for n in (3, 5)]


def changed(graph: LpGraph, name: str, seed: int) -> None:
    node = graph.node(name)
    weight = node.inputs[1]
    assert weight is not None
    rng = np.random.default_rng(seed)
    graph.set_weights(node, rng.normal(0, 1, weight.dims).astype(np.float32), None)


def layer_by_layer(runs: SettledRuns, graph: LpGraph) -> Iterator[tuple[list[Feeds], list[Feeds]]]:
    """What the inputs of each layer are said to be, and what they are; then the layer changes."""
    calls = network()[1]
    names = [n.name for n in graph.layers()]
    for i, (name, tensor) in enumerate(zip(names, INPUTS, strict=True)):
        [found] = map(list, runs.run(graph, [tensor], names[i:]))
        whole = observer(graph, [tensor], threads=1)
        yield found, [whole(c) for c in calls]
        changed(graph, name, i)


@pytest.mark.parametrize("most_bytes", [HELD_BYTES, 200, 0])
def test_inputs_of_changing_layers_are_those_of_the_whole_graph(most_bytes: int) -> None:
    graph, calls = network()
    for found, expected in layer_by_layer(SettledRuns(observer, [calls], most_bytes=most_bytes), graph):
        for a, b in zip(found, expected, strict=True):
            assert a.keys() == b.keys()
            for tensor in a:
                np.testing.assert_allclose(a[tensor], b[tensor], rtol=1e-6, atol=1e-6)


def test_no_settled_node_runs_again() -> None:
    graph, calls = network()
    opened = Opened()
    list(layer_by_layer(SettledRuns(opened, [calls]), graph))
    assert opened.ops == [
        {"Tanh"},
        {"MatMul", "Add", "Relu", "Sigmoid"},
        {"MatMul", "Add"},
        {"MatMul", "Add"},
    ]


def test_without_room_every_run_starts_from_the_inputs() -> None:
    graph, calls = network()
    opened = Opened()
    list(layer_by_layer(SettledRuns(opened, [calls], most_bytes=0), graph))
    assert all("Tanh" in ops for ops in opened.ops)


def test_nothing_is_kept_where_any_layer_may_change() -> None:
    graph, calls = network()
    opened = Opened()
    runs = SettledRuns(opened, [calls])
    for _ in range(2):
        list(*runs.run(graph, ["d"], None))
    assert opened.ops[0] == opened.ops[1]
    assert "Tanh" in opened.ops[1]


def test_bodies_read_their_tensors_from_the_graph_around_them() -> None:
    graph, calls = network(
        """m (float[N,4] x, bool p) => (float[N,C] y) <float[4,4] u, float[4,4] v, float[4,3] z> {
        t = Tanh (x)
        a = MatMul (t, u)
        c = If (p) <then_branch = g () => (float[N,4] k) { k = Mul (t, a) },
                    else_branch = h () => (float[N,4] l) { l = Add (t, a) }>
        d = MatMul (c, v)
        y = MatMul (d, z) }"""
    )
    calls = [{**c, "p": np.array(i == 0)} for i, c in enumerate(calls)]
    runs, names = SettledRuns(observer, [calls]), [n.name for n in graph.layers()]
    for i, tensor in enumerate(("t", "c", "d")):
        whole = observer(graph, [tensor], threads=1)
        for call, found in zip(calls, *runs.run(graph, [tensor], names[i:]), strict=True):
            np.testing.assert_allclose(found[tensor], whole(call)[tensor], rtol=1e-6, atol=1e-6)
        changed(graph, names[i], i)
