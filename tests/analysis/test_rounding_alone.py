"""What each rounding costs alone: found by halving sets, in few measurements where few tensors are at fault."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis.planned_groups import planned_groups
from lpcompile.analysis.rounding_alone import Chosen, ChosenRounding, noise_alone
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
def test_tensors_at_fault_are_found_and_nothing_is_lost(
    quiet: list[float], loud: set[int], least: float
) -> None:
    costs = np.asarray(quiet)[:, None] * [least / len(quiet) / 2, least / len(quiet) / 4]
    for i in loud & set(range(len(quiet))):
        costs[i] = [0.5, 0.1 * i]
    calls = 0

    def measure(chosen: Chosen) -> F64:
        nonlocal calls
        calls += 1
        return np.asarray(costs[chosen].sum(0))

    found = noise_alone(measure, len(quiet), least)
    np.testing.assert_allclose(found.sum(0), costs.sum(0))
    for i in loud & set(range(len(quiet))):
        np.testing.assert_allclose(found[i], costs[i])
    assert calls <= 1 + 2 * len(loud) * np.ceil(np.log2(max(2, len(quiet))))


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
