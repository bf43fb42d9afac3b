"""A float network that is gone through again gives the same tensors, and runs again only where they were not kept."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.analysis.remembered_runs import MOST_BYTES, RememberedRuns
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from tests.support import parse_model

TEXT = """m (float[N,4] x) => (float[N,4] y) <float[4,4] u, float[4,4] v> {
    t = Tanh (x)
    a = MatMul (t, u)
    s = Sigmoid (a)
    y = MatMul (s, v) }"""
INPUTS = ["t", "s"]  # of the layers, in order


class Counted:
    """An observer that counts runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
        run = observer(graph, tensors, threads=1)

        def counted(feeds: Mapping[str, np.ndarray]) -> Feeds:
            self.runs += 1
            return run(feeds)

        return counted


@pytest.mark.parametrize(("most_bytes", "again"), [(MOST_BYTES, 0), (300, 8), (0, 8)])
def test_a_second_time_through_gives_the_same(most_bytes: int, again: int) -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    graph.infer_shapes()
    rng = np.random.default_rng(3)
    calls = [{"x": rng.normal(0, 1, (n, 4)).astype(np.float32)} for n in (3, 5, 2, 4)]
    parts, opened = [calls[0::2], calls[1::2]], Counted()
    runs, names = RememberedRuns(opened, parts, most_bytes=most_bytes), [n.name for n in graph.layers()]
    whole = observer(graph, INPUTS, threads=1)
    for time in range(2):
        runs.restart()
        before = opened.runs
        for i, tensor in enumerate(INPUTS):
            for part, found in zip(parts, runs.run(graph, [tensor], names[i:]), strict=True):
                for call, values in zip(part, found, strict=True):
                    assert list(values) == [tensor]
                    np.testing.assert_array_equal(values[tensor], whole(call)[tensor])
        assert opened.runs - before == (again if time else 8)
