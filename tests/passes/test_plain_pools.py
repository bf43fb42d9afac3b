"""Pools in plain words: same results, and nothing left for a second run."""

import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from lpcompile.pipeline import PassContext
from tests.support import assert_same_outputs, parse_model, random_feeds, run_model


def canonical(text: str, opset: int = 20) -> LpGraph:
    model = parse_model(text, opset=opset, check=False)
    graph = LpGraph.from_proto(model)
    Canonicalize().run(graph, _context())
    assert_same_outputs(model, graph.to_proto())
    again = LpGraph.from_proto(graph.to_proto())
    assert not Canonicalize().run(again, _context()).changes
    return graph


def _context() -> PassContext:
    return PassContext(run=lambda proto, feeds: run_model(proto, feeds))


@pytest.mark.parametrize(("dilations", "kept"), [("1, 1", False), ("1, 2", True)])
def test_dilations_of_one(dilations: str, kept: bool) -> None:
    text = f"""g (float[N,2,5,5] x) => (float[N,2,a,b] y) {{
        y = AveragePool <kernel_shape = [2, 2], dilations = [{dilations}]> (x) }}"""
    (node,) = canonical(text).nodes()
    assert ("dilations" in node.attrs) == kept


@pytest.mark.parametrize(
    ("size", "attributes", "changes"),
    [
        (3, "kernel_shape = [1, 1], strides = [3, 1]", True),
        (2, "kernel_shape = [2, 1], strides = [3, 1], pads = [0, 0, 1, 0]", True),
        (5, "kernel_shape = [3, 1], strides = [2, 1]", False),  # nothing is left out
        (6, "kernel_shape = [3, 1], strides = [2, 1]", False),
    ],
)
def test_windows_that_begin_in_the_padding(size: int, attributes: str, changes: bool) -> None:
    text = f"""g (float[N,2,{size},3] x) => (float[N,2,a,b] y) {{
        y = MaxPool <ceil_mode = 1, {attributes}> (x) }}"""
    graph = canonical(text)
    (node,) = graph.nodes()
    assert ("ceil_mode" not in node.attrs) == changes
    found = run_model(graph.to_proto(), random_feeds(graph.to_proto()))["y"].shape
    assert graph.value("y").shape == ("N", *found[1:])
