"""Learned tables: the best one for given scales, never worse than where the search started, and replayed exactly."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lpcompile.formats.base import resolve
from lpcompile.formats.codebook import LearnedTable
from lpcompile.formats.group import group_table
from lpcompile.quant.codebook_search import (
    STARTS,
    Fitting,
    best_levels,
    fit_codebook,
    half_step_moments,
    weighted_loss,
)

SIZES = {"channel": 0, "group": 16}


def heavy_tailed(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


def moments_about(columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1, columns).astype(np.float32)


def error_of(levels: np.ndarray, x: np.ndarray, weight: np.ndarray) -> float:
    nearest = np.abs(x[..., None].astype(np.float64) - levels).min(axis=-1)
    return float((weight * nearest**2).sum())


def test_no_single_exchange_of_a_level_improves_the_best_table() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(0, 40, (8, 50)).astype(np.float32), rng.uniform(0.1, 3, (8, 50)).astype(np.float32)
    levels = best_levels(half_step_moments(x, weight, None), False)
    least = error_of(levels, x, weight)
    assert len(levels) == 16
    assert 0 in levels
    for at, value in itertools.product(range(16), range(-127, 128)):
        if levels[at] != 0:
            other = levels.astype(np.int64)
            other[at] = value
            assert error_of(other, x, weight) >= least - 1e-6 * least


def test_sixteen_distinct_integers_are_found_without_error() -> None:
    wanted = np.array([-127, -99, -70, -51, -40, -33, -8, -1, 0, 2, 5, 19, 44, 80, 101, 126])
    x = np.random.default_rng(0).choice(wanted, (4, 200)).astype(np.float32)
    assert best_levels(half_step_moments(x, np.ones_like(x), None), False).tolist() == wanted.tolist()


def test_a_table_for_groups_counts_the_rows_as_they_are_declared() -> None:
    """No table of random levels beats it on the declared rows, whose rounding it must foresee."""
    rng = np.random.default_rng(0)
    m = rng.integers(1, 16, (6, 40)).astype(np.uint8)
    x = (rng.normal(0, 0.4, m.shape) * m * 127 / 15).astype(np.float32)

    def declared(levels: np.ndarray) -> float:
        rows = group_table(LearnedTable.from_levels(levels)).astype(np.float64)
        return float((np.abs(x[..., None] - rows[m]).min(axis=-1) ** 2).sum())

    found = best_levels(half_step_moments(x, np.ones_like(x), m), True)
    assert np.abs(found.astype(np.int64)).max() == 127
    for _ in range(300):
        near = np.clip(found + rng.integers(-6, 7, 16) * (np.abs(found) < 127), -127, 127)
        near[found == 0] = 0
        assert declared(found) <= declared(near.astype(np.int8)) * (1 + 1e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("granularity", SIZES)
@pytest.mark.parametrize("rule", ["mse", "output-mse"])
def test_a_learned_table_is_much_better_on_heavy_tails(granularity: str, rule: str) -> None:
    w, h = heavy_tailed(24, 288), moments_about(288)
    how = Fitting(granularity, 16, rule, "ufloat8_e4m4", h)
    weights = how.weights(288)
    found = weighted_loss(w, fit_codebook(w, how), weights)
    best = min(weighted_loss(w, how.fit(w, resolve(name)), weights) for name in STARTS)
    assert found < (0.9 if granularity == "channel" else 0.99) * best


@pytest.mark.thorough
@given(
    st.integers(1, 6),
    st.integers(1, 60),
    st.sampled_from(list(SIZES)),
    st.sampled_from(["float32", "ufloat8_e4m4"]),
    st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_never_worse_than_where_it_started(
    rows: int, columns: int, granularity: str, scale_format: str, seed: int
) -> None:
    w, h = heavy_tailed(rows, columns, seed), moments_about(columns, seed)
    how = Fitting(granularity, 16, "output-mse", scale_format, h)
    weights = how.weights(columns)
    found = weighted_loss(w, fit_codebook(w, how, rounds=1), weights)
    for name in ("posit4", "fixp4", "float4_e2m1fn"):
        assert found <= weighted_loss(w, how.fit(w, resolve(name)), weights) * (1 + 1e-6)


def test_sampling_channels_does_not_break_the_promise() -> None:
    w, how = heavy_tailed(64, 144), Fitting("channel", 0, "mse", "ufloat8_e4m4")
    ones = np.ones(144, np.float32)
    found = fit_codebook(w, how, sample_weights=1000)
    assert found.shape == w.shape
    for name in ("posit4", "fixp4"):
        assert weighted_loss(w, found, ones) <= weighted_loss(w, how.fit(w, resolve(name)), ones) * (1 + 1e-6)
    assert weighted_loss(w, found, ones) < 0.9 * weighted_loss(w, how.fit(w, resolve("nf4")), ones)


@pytest.mark.thorough
@pytest.mark.parametrize("granularity", SIZES)
def test_the_name_of_the_table_gives_the_same_codes_again(granularity: str) -> None:
    w, how = heavy_tailed(12, 96), Fitting(granularity, 16, "mse", "ufloat8_e4m4")
    found = fit_codebook(w, how)
    assert found.format.name.startswith("lut4:")
    assert found == how.fit(w, resolve(found.format.name))
    assert found == fit_codebook(w, how)
    plain = how.fit(w, resolve("fixp4"))
    assert found.total_bits - plain.total_bits == 128


def test_weights_that_are_all_zero_stay_zero() -> None:
    found = fit_codebook(np.zeros((4, 40), np.float32), Fitting())
    assert not found.dequantize().any()


@pytest.mark.parametrize("magnitude", [1e-25, 1e25])
def test_magnitude_does_not_matter(magnitude: float) -> None:
    w = heavy_tailed(8, 64)
    usual = fit_codebook(w, Fitting())
    found = fit_codebook((w * np.float32(magnitude)).astype(np.float32), Fitting())
    losses = [
        float(((w - q.dequantize().astype(np.float64) / m) ** 2).sum())
        for q, m in ((usual, 1), (found, magnitude))
    ]
    assert losses[1] < 1.02 * losses[0]
