"""Batches of samples stay within memory, the unfolded inputs of the largest layer counted."""

import numpy as np
import pytest

from lpcompile.analysis import batches
from lpcompile.analysis.batches import separable_bytes, unfolded_times
from lpcompile.analysis.gradients import Samples
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from tests.support import parse_model, random_feeds

MODEL = """m (float[N,2,1,64] x) => (float[N,4,1,64] y) <float[4,1,1,9] w, float[4,4,1,1] v> {
    [wide] a = Conv <group = 2, pads = [0, 4, 0, 4]> (x, w)  [narrow] y = Conv (a, v)
}"""
OUTPUT = 4 * 64 * 4  # bytes of either output of one sample
INPUTS = 2 * 64 * 4


@pytest.fixture
def graph() -> LpGraph:
    made = LpGraph.from_proto(parse_model(MODEL))
    made.infer_shapes()
    return made


def calls(count: int) -> list[dict[str, np.ndarray]]:
    model = parse_model(MODEL.replace("N", "1"))
    return [random_feeds(model, seed=i) for i in range(count)]


def test_columns_over_outputs(graph: LpGraph) -> None:
    assert unfolded_times(graph.node("wide")) == 9 * 2 / 4  # 9 inputs an output, two groups, four channels
    assert unfolded_times(graph.node("narrow")) == 1


def test_the_largest_columns_count_once(graph: LpGraph) -> None:
    wanted = {"a": unfolded_times(graph.node("wide")), "y": unfolded_times(graph.node("narrow"))}
    assert separable_bytes(graph, ["a", "y"], observer, calls(3)) == 2 * OUTPUT
    assert separable_bytes(graph, ["a", "y"], observer, calls(3), wanted) == 2 * OUTPUT + int(4.5 * OUTPUT)


def test_batches_shrink_where_columns_are_large(graph: LpGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ["wide", "narrow"]
    assert Samples.of(graph, layers, observer, calls(8)).sizes == [8]
    whole = 2 * OUTPUT + int(4.5 * OUTPUT)
    monkeypatch.setattr(batches, "BATCH_BYTES", 3 * whole)
    assert Samples.of(graph, layers, observer, calls(8)).sizes == [3, 3, 2]
