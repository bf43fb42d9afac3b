"""Samples joined along an open batch axis, or kept as calls."""

import itertools

import numpy as np

from lpcompile.analysis.inputs import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from lpcompile.tuning.batches import Samples, may_join
from tests.support import Array, parse_model


def calls(*sizes: int) -> list[Feeds]:
    ends = np.cumsum((0, *sizes))
    return [
        {"x": np.arange(a, b, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32), "t": np.arange(a, b)}
        for a, b in itertools.pairwise(ends)
    ]


def graph(batch: str, node: str = "Relu (x)", width: str = "3") -> LpGraph:
    text = f"m (float[{batch},{width}] x) => (float y) {{ y = {node} }}"
    return LpGraph.from_proto(parse_model(text, check=False))


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


def joinable(model: LpGraph, *feeds: Array) -> bool:
    calls = [{"x": np.asarray(x, np.float32)} for x in feeds]
    run = observer(model, ["y"])
    return may_join(model, calls, [run(c) for c in calls], observer)


def test_only_an_open_batch_axis_may_be_joined() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert joinable(graph("N"), x[:2], x[2:3])
    assert not joinable(graph("2"), x[:2], x[2:4]), "a fixed batch"
    assert not joinable(graph("N", "Flatten <axis = 0> (x)"), x[:2], x[2:3]), "outputs have another"
    assert not joinable(graph("N", "ReduceSum <keepdims = 0> (x)"), x[:2], x[2:3]), "scalars"
    assert not joinable(graph("N", width="M"), x[:2], x[2:3, :2]), "other axes differ"
    assert not joinable(graph("N"), x[:1], x[:1]), "samples that are all alike show nothing"


def test_samples_that_touch_each_other_are_not_joined() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert not joinable(graph("N", "Softmax <axis = 0> (x)"), x[:2], x[2:4])
    assert joinable(graph("N", "Softmax <axis = 1> (x)"), x[:2], x[2:4])
