"""KL of a clipped and quantised histogram against its definition, bin by bin in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.analysis.affine import Range, affine
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.kl_divergence import divergences
from lpcompile.analysis.ranges import POINTS, find_range

F64 = NDArray[np.float64]


def by_loops(centres: F64, weights: F64, r: Range, levels: int) -> float:
    """From the definition: one bin after the other."""
    scale, zero = affine(r, levels)
    bins = list(zip(centres.tolist(), weights.tolist(), strict=True))
    at_zero = next((x for x, _ in bins if x >= 0), None)
    bins = [(x, w) for x, w in bins if x != at_zero]
    whole = sum(w for _, w in bins)
    codes = [round(x / scale) + zero for x, _ in bins]  # half to even, as numpy rounds
    inside = [i for i, c in enumerate(codes) if 0 <= c < levels]
    if not inside:
        return math.inf
    clipped = {i: bins[i][1] for i in inside}
    clipped[inside[0]] += sum(w for _, w in bins[: inside[0]])
    clipped[inside[-1]] += sum(w for _, w in bins[inside[-1] + 1 :])
    mass: dict[int, float] = {}
    filled: dict[int, int] = {}
    for i in inside:
        mass[codes[i]] = mass.get(codes[i], 0.0) + bins[i][1]
        filled[codes[i]] = filled.get(codes[i], 0) + 1
    spread = {i: mass[codes[i]] / filled[codes[i]] for i in inside}
    kept = sum(spread.values())
    total = 0.0
    for i in inside:
        p, q = clipped[i] / whole, spread[i] / kept
        total += p * math.log(p / q) if p > 0 else 0.0
    return total


def statistics_of(kind: str, seed: int, count: int = 3000) -> TensorStatistics:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, count)
    x = {"both signs": x, "relu": np.maximum(x, 0), "shifted": x + 2, "negative": -np.abs(x)}[kind]
    statistics = TensorStatistics()
    statistics.update(x.astype(np.float32))
    return statistics


KINDS = ("both signs", "relu", "shifted", "negative")


@given(
    st.sampled_from(KINDS),
    st.integers(0, 99),
    st.sampled_from([3, 16, 256]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_it_is_the_definition(kind: str, seed: int, levels: int, a: float, b: float) -> None:
    statistics = statistics_of(kind, seed)
    centres, weights = statistics.points(POINTS)
    r = Range(min(0.0, statistics.low) * a, max(0.0, statistics.high) * b)
    full = Range(min(0.0, statistics.low), max(0.0, statistics.high))
    lows, highs = np.array([full.low, r.low]), np.array([full.high, r.high])
    found = divergences(centres, weights, lows, highs, levels)
    wanted = [by_loops(centres, weights, x, levels) for x in (full, r)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [16, 256])
def test_the_rule_comes_close_to_the_least_of_a_grid(kind: str, levels: int) -> None:
    statistics = statistics_of(kind, 5, 20000)
    centres, weights = statistics.points(POINTS)
    low, high = min(0.0, statistics.low), max(0.0, statistics.high)
    grid = [Range(low * a, high * b) for a in np.linspace(0.05, 1, 14) for b in np.linspace(0.05, 1, 14)]
    best = min(by_loops(centres, weights, r, levels) for r in grid[:: 1 if levels == 16 else 5])
    found = find_range(statistics, "kl", levels=levels)
    assert by_loops(centres, weights, found, levels) <= 1.1 * best + 1e-3


def test_the_mass_of_zero_does_not_choose_the_range() -> None:
    """A Relu may leave one value in two, or nine in ten, at zero: the others are what is rounded."""
    values = np.abs(np.random.default_rng(0).normal(size=4000)).astype(np.float32)
    found = []
    for zeros in (0, 4000, 36000):
        statistics = TensorStatistics()
        statistics.update(np.concatenate([values, np.zeros(zeros, np.float32)]))
        found.append(find_range(statistics, "kl", levels=16))
    assert found[0] == found[1] == found[2]
