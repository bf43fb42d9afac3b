"""Range rules against brute force on the data themselves."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.analysis.affine import Range, affine, affine_arrays
from lpcompile.analysis.histogram import BINS, TensorStatistics
from lpcompile.analysis.ranges import RULES, find_range, mean_squared_error

F32 = NDArray[np.float32]
FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def statistics_of(x: F32) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.update(x)
    return statistics


def quantized(x: F32, r: Range, levels: int) -> NDArray[np.float64]:
    """What a quantiser over the range makes of x, written from the definition."""
    scale, zero = affine(r, levels)
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, levels - 1)
    return np.asarray(scale * (codes - zero), np.float64)


@st.composite
def tensors(draw: st.DrawFn) -> F32:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_t(draw(st.sampled_from([2, 3, 30])), draw(st.integers(50, 3000)))
    kind = draw(st.sampled_from(["as it is", "relu", "shifted", "negative"]))
    x = {"as it is": x, "relu": np.maximum(x, 0), "shifted": x + 3, "negative": -np.abs(x)}[kind]
    return np.asarray(x * 2.0 ** draw(st.integers(-8, 8)), np.float32)


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32), st.sampled_from([16, 256]))
def test_zero_is_a_code_and_the_range_is_covered_within_half_a_step(
    low: float, high: float, levels: int
) -> None:
    assume(high - low > 1e-30)
    scale, zero = affine(Range(low, high), levels)
    assert scale == np.float32(scale) > 0
    assert 0 <= zero <= levels - 1
    assert (zero - zero) * scale == 0.0  # the code `zero` stands for 0 exactly
    assert scale * -zero <= low + scale * 0.51
    assert scale * (levels - 1 - zero) >= high - scale * 0.51


@pytest.mark.parametrize(("low", "high", "zero"), [(0, 2.5, 0), (-2.5, 0, 255)])
def test_a_one_sided_range_spends_no_code_on_the_other_side(low: float, high: float, zero: int) -> None:
    scale, found = affine(Range(low, high), 256)
    assert found == zero
    assert scale == pytest.approx(2.5 / 255)


def test_a_range_without_width_still_gives_a_quantiser() -> None:
    assert affine(Range(0.0, 0.0), 256) == (1.0, 0)
    assert affine(Range(-np.inf, np.inf), 256) == (1.0, 0)


def test_the_smallest_range_keeps_a_normal_scale() -> None:
    scale, _ = affine(Range(0.0, 1e-44), 256)
    assert scale == np.finfo(np.float32).tiny


@given(st.lists(st.tuples(st.floats(-100, 0), st.floats(0, 100)), min_size=1, max_size=5))
def test_many_ranges_at_once_are_the_single_ones(pairs: list[tuple[float, float]]) -> None:
    lows, highs = np.array(pairs).T
    scales, zeros = affine_arrays(lows, highs, 256)
    assert [affine(Range(a, b), 256) for a, b in pairs] == list(zip(scales, zeros, strict=True))


@given(tensors(), st.sampled_from(RULES), st.sampled_from([16, 256]))
def test_every_rule_stays_inside_the_data_and_holds_zero(x: F32, rule: str, levels: int) -> None:
    r = find_range(statistics_of(x), rule, levels=levels)
    slack = 1e-6 * float(np.abs(x).max())
    assert min(0.0, x.min()) - slack <= r.low <= 0 <= r.high <= max(0.0, x.max()) + slack


@given(tensors())
def test_minmax_is_exact(x: F32) -> None:
    assert find_range(statistics_of(x), "minmax", levels=256) == Range(min(0, x.min()), max(0, x.max()))


@given(tensors(), st.sampled_from(["90", "99", "99.9", "100"]))
def test_percentiles_within_one_bin_of_the_sorted_numbers(x: F32, percentile: str) -> None:
    statistics = statistics_of(x)
    found = find_range(statistics, "percentile", levels=256, percentile=float(percentile))
    one_bin = 1.01 * 2 * statistics.reach / BINS
    least, most = percentile_of(x, 100 - Fraction(percentile))
    assert min(0.0, least) - one_bin <= found.low <= min(0.0, most) + one_bin
    least, most = percentile_of(x, Fraction(percentile))
    assert max(0.0, least) - one_bin <= found.high <= max(0.0, most) + one_bin


def percentile_of(x: F32, percent: Fraction) -> tuple[float, float]:
    """Between which numbers it lies: one and the same, but where a whole number of them is below it."""
    ordered, below = np.sort(x, axis=None), percent * x.size / 100
    return float(ordered[max(math.ceil(below) - 1, 0)]), float(ordered[min(math.floor(below), x.size - 1)])


@given(tensors(), st.sampled_from([16, 256]))
def test_least_error_is_never_worse_than_the_whole_range(x: F32, levels: int) -> None:
    statistics = statistics_of(x)
    found = find_range(statistics, "mse", levels=levels)
    whole = find_range(statistics, "minmax", levels=levels)
    assert mean_squared_error(statistics, found, levels) <= mean_squared_error(statistics, whole, levels)


@given(tensors(), st.sampled_from([16, 256]))
def test_the_histogram_predicts_the_error_on_the_data(x: F32, levels: int) -> None:
    statistics = statistics_of(x)
    r = find_range(statistics, "percentile", levels=levels, percentile=99.0)
    assume(r.low < r.high)
    scale, _ = affine(r, levels)
    measured = float(((quantized(x, r, levels) - x) ** 2).mean())
    half_bin = statistics.reach / BINS
    bound = 2 * half_bin * np.sqrt(measured) + half_bin**2 + 2 * scale * half_bin  # x moves by half a bin
    assert mean_squared_error(statistics, r, levels) == pytest.approx(measured, rel=1e-3, abs=bound)


@pytest.mark.sweep
@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "skewed"])
def test_least_error_comes_close_to_a_brute_force_search(kind: str, levels: int) -> None:
    rng = np.random.default_rng(3)
    x = {
        "normal": rng.normal(size=20000),
        "laplace": rng.laplace(size=20000),
        "relu": np.maximum(rng.laplace(size=20000), 0),
        "skewed": rng.gamma(1.5, size=20000) - 0.5,
    }[kind].astype(np.float32)
    statistics = statistics_of(x)
    low, high = statistics.low, statistics.high
    grid = [Range(low * a, high * b) for a in np.linspace(0.1, 1, 28) for b in np.linspace(0.1, 1, 28)]
    best = min(float(((quantized(x, r, levels) - x) ** 2).mean()) for r in grid)
    found = find_range(statistics, "mse", levels=levels)
    assert float(((quantized(x, found, levels) - x) ** 2).mean()) <= 1.03 * best


def test_pixels_on_a_lattice_keep_their_lossless_scale() -> None:
    x = np.random.default_rng(0).integers(0, 256, 4000).astype(np.float32)
    x[:2] = 0, 255
    assert affine(find_range(statistics_of(x), "mse", levels=256), 256) == (1.0, 0)


@pytest.mark.parametrize("magnitude", [1e-40, 1e-20, 1e25])
def test_extreme_magnitudes_have_a_range(magnitude: float) -> None:
    x = (np.random.default_rng(0).normal(size=500) * magnitude).astype(np.float32)
    for rule in RULES:
        r = find_range(statistics_of(x), rule, levels=256)
        assert np.isfinite([r.low, r.high]).all()
        assert r.low < 0 < r.high or magnitude < 1e-30  # below LEAST_REACH a bin is wider than the data


def test_a_tensor_of_zeros_has_no_width() -> None:
    for rule in RULES:
        assert find_range(statistics_of(np.zeros(5, np.float32)), rule, levels=256) == Range(0, 0)


@given(FINITE, FINITE, FINITE, FINITE)
def test_union_holds_both(a: float, b: float, c: float, d: float) -> None:
    one, other = Range(min(a, b), max(a, b)), Range(min(c, d), max(c, d))
    assert one.union(other) == other.union(one) == Range(min(a, b, c, d), max(a, b, c, d))
