"""The tensors whose rounding costs most alone: found by halving sets, in few measurements where few are at fault."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis.planned_groups import planned_groups
from lpcompile.analysis.rounding_alone import Chosen, ChosenRounding, worst_first
from lpcompile.formats.arrays import F64
from lpcompile.runtime.execution import observer
from tests.quantizing import NO_COSTS, quantized
from tests.support import random_feeds

NET = """m (float[2,8] x) => (float[2,5] y, float[2,4] z) <float[8,6] w1, float[6] b1, float[6,5] w2, float[5,4] w3> {
    a = Gemm (x, w1, b1)  r = Relu (a)  y = MatMul (r, w2)  z = MatMul (y, w3)
}"""


@given(
    st.lists(st.floats(1e-9, 1), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=3),
    st.floats(1e-6, 1e-3),
)
def test_tensors_at_fault_are_found_in_few_measurements(
    quiet: list[float], loud: set[int], aim: float
) -> None:
    at_fault = sorted(loud & set(range(len(quiet))))
    costs = np.asarray(quiet)[:, None] * [aim / len(quiet) / 2, aim / len(quiet) / 4]
    for i in at_fault:
        costs[i] = [0.5 + 0.01 * i, 0.1]
    calls = 0

    def measure(chosen: Chosen) -> F64:
        nonlocal calls
        calls += 1
        return np.asarray(costs[chosen].sum(0))

    found = dict(islice(worst_first(measure, len(quiet), limit=100), len(at_fault)))
    assert list(found) == at_fault[::-1]  # the worst first
    for i, noise in found.items():
        np.testing.assert_allclose(noise, costs[i])
    assert calls <= 1 + 2 * len(at_fault) * np.ceil(np.log2(max(2, len(quiet))))


def test_noise_that_all_bring_alike_is_not_looked_for() -> None:
    def measure(chosen: Chosen) -> F64:
        measured.append(int(chosen.sum()))
        return np.asarray([chosen.sum() / 256])

    measured: list[int] = []
    assert not list(worst_first(measure, 256, limit=40))
    assert len(measured) <= 40


def test_a_run_rounds_what_it_chooses() -> None:
    passes = NO_COSTS.replace("cost=none", "cost=none,matmul=dynamic")
    found = quantized(NET, f"{passes},quantize-weights")
    graph, calls = found.graph, [random_feeds(found.original, seed=s) for s in range(3)]
    groups = [g for g in planned_groups(graph) if g.sources]
    rounding = ChosenRounding(graph, groups, observer, calls, logits=False)
    count = len(groups) + 2
    assert not rounding.noise(np.zeros(count, bool)).any()
    last = rounding.noise(np.arange(count) == count - 1)
    assert last[0] == 0
    assert last[1] > 0
    assert (rounding.noise(np.ones(count, bool)) > 0).all()
