"""Samples joined along an open batch axis, or kept as calls."""

import itertools

import numpy as np

from lpcompile.analysis.inputs import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.tuning.batches import Samples, may_join
from tests.support import parse_model


def calls(*sizes: int) -> list[Feeds]:
    ends = np.cumsum((0, *sizes))
    return [
        {"x": np.arange(a, b, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32), "t": np.arange(a, b)}
        for a, b in itertools.pairwise(ends)
    ]


def graph(batch: str) -> LpGraph:
    return LpGraph.from_proto(
        parse_model(f"m (float[{batch},3] x) => (float[{batch},3] y) {{ y = Relu (x) }}")
    )


def test_joined_samples_are_cut_anew_in_any_order() -> None:
    samples = Samples(calls(4, 4, 3), joined=True)
    assert samples.count == 11
    found = list(samples.batches([10, 0, 5, 3, 7], 2))
    assert [b[0]["t"].tolist() for b in found] == [[10, 0], [5, 3], [7]]
    assert all((b[0]["x"][:, 0] == b[0]["t"]).all() for b in found)
    assert samples.batch_count(5, 2) == 3


def test_calls_that_cannot_be_joined_stay_whole() -> None:
    samples = Samples(calls(4, 4, 4), joined=False)
    assert samples.count == 3
    found = list(samples.batches([2, 0, 1], 8))
    assert [[c["t"][0] for c in b] for b in found] == [[8, 0], [4]]
    assert samples.batch_count(3, 8) == 2
    assert [len(b) for b in samples.batches([0, 1, 2], 1)] == [1, 1, 1]


def test_only_an_open_batch_axis_may_be_joined() -> None:
    feeds = [{"x": np.zeros((2, 3), np.float32)}, {"x": np.zeros((1, 3), np.float32)}]
    outputs = [{"y": np.zeros((2, 3))}, {"y": np.zeros((1, 3))}]
    assert may_join(graph("N"), feeds, outputs)
    assert not may_join(graph("2"), feeds[:1], outputs[:1]), "a fixed batch"
    assert not may_join(graph("N"), feeds, [{"y": np.zeros((6,))}, {"y": np.zeros((3,))}]), (
        "outputs have another"
    )
    assert not may_join(graph("N"), feeds, [{"y": np.zeros(())}] * 2), "scalars"
    uneven = [feeds[0], {"x": np.zeros((1, 4), np.float32)}]
    assert not may_join(graph("N"), uneven, outputs), "other axes differ"
