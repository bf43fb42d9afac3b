"""Segments of layers against every partition there is, and against the dependences of the graph."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis import segments as module
from lpcompile.analysis.segments import affordable_segments, segments
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model


def chain(widths: list[int]) -> LpGraph:
    """A chain of MatMuls whose costs are products of neighbouring widths."""
    nodes = " ".join(f"t{i + 1} = MatMul (t{i}, w{i})" for i in range(len(widths) - 1))
    weights = ", ".join(f"float[{a},{b}] w{i}" for i, (a, b) in enumerate(pairwise(widths)))
    text = (
        f"m (float[1,{widths[0]}] t0) => (float[1,{widths[-1]}] t{len(widths) - 1}) <{weights}> {{ {nodes} }}"
    )
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return graph


@given(st.lists(st.integers(1, 6), min_size=2, max_size=7), st.integers(1, 8))
def test_segments_of_a_chain_have_the_least_sum_of_squares(widths: list[int], most: int) -> None:
    graph = chain(widths)
    names = [n.name for n in graph.layers()]
    costs = dict(zip(names, (a * b for a, b in pairwise(widths)), strict=True))
    found = segments(graph, names, most)
    assert [n for s in found for n in s] == names
    assert len(found) == min(most, len(names))
    n = len(names)
    every = [
        sum(sum(costs[m] for m in names[a:b]) ** 2 for a, b in pairwise((0, *cuts, n)))
        for k in range(min(most, n))
        for cuts in combinations(range(1, n), k)
    ]
    assert sum(sum(costs[m] for m in s) ** 2 for s in found) == min(every)


BRANCHES = """m (float[1,4] x) => (float[1,4] y)
    <float[4,4] q, float[4,4] k, float[4,4] o, float[4,4] s, float[4,4] e> {
    a = MatMul (x, q)
    b = MatMul (x, k)
    c = Add (a, b)
    d = MatMul (c, o)
    f = MatMul (x, s)
    g = Add (d, f)
    y = MatMul (g, e) }"""


def test_layers_that_do_not_depend_on_each_other_share_a_segment() -> None:
    graph = LpGraph.from_proto(parse_model(BRANCHES))
    q, k, o, s, e = (n.name for n in graph.layers())
    assert segments(graph, [q, k, o, s, e], 9) == [[q, k, s], [o], [e]]
    assert segments(graph, [q, k, o, s, e], 1) == [[q, k, s, o, e]]


def test_layers_that_are_not_asked_for_count_for_nothing() -> None:
    graph = LpGraph.from_proto(parse_model(BRANCHES))
    q, k, _, _, e = (n.name for n in graph.layers())
    assert segments(graph, [e, k, q], 9) == [[q, k], [e]]
    assert segments(graph, [], 3) == []


def test_a_dependence_through_a_body_counts() -> None:
    text = """m (float[1,4] x, bool p) => (float[1,4] y) <float[4,4] w, float[4,4] v> {
        a = MatMul (x, w)
        b = If (p) <then_branch = t () => (float[1,4] i) { i = Relu (a) },
                    else_branch = e () => (float[1,4] j) { j = Neg (a) }>
        y = MatMul (b, v) }"""
    graph = LpGraph.from_proto(parse_model(text))
    first, second = (n.name for n in graph.layers())
    assert segments(graph, [first, second], 5) == [[first], [second]]


def test_unknown_shapes_are_weighed_by_weights() -> None:
    text = """m (float[N,S,2] x) => (float[N,S,2] y) <float[2,8] a, float[8,8] b, float[8,2] c, float[2,2] d> {
        t = MatMul (x, a) u = MatMul (t, b) v = MatMul (u, c) y = MatMul (v, d) }"""
    graph = LpGraph.from_proto(parse_model(text))
    a, b, c, d = (n.name for n in graph.layers())
    assert segments(graph, [a, b, c, d], 3) == [[a], [b], [c, d]]


@pytest.mark.parametrize(("most", "expected"), [(100.0, 5), (1e9, 7), (1.0, 3)])
def test_segments_are_as_many_as_can_be_paid_for(
    most: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_MACS", most)
    monkeypatch.setattr(module, "LEAST_SEGMENTS", 3)
    monkeypatch.setattr(module, "MOST_SEGMENTS", 7)
    graph = LpGraph.from_proto(
        parse_model("m (float[N,2] x) => (float[N,4] y) <float[2,4] w> { y = MatMul (x, w) }")
    )
    assert affordable_segments(graph, [{"x": np.zeros((5, 2), np.float32)}]) == expected  # 40 products
