"""Streamed statistics against numpy on all the data at once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.analysis.histogram import BINS, SAMPLE, TensorStatistics, channel_sums

F32 = NDArray[np.float32]


def streamed(chunks: list[F32], **options: Any) -> TensorStatistics:
    statistics = TensorStatistics(**options)
    for chunk in chunks:
        statistics.update(chunk)
    return statistics


@st.composite
def chunk_lists(draw: st.DrawFn) -> list[F32]:
    """A few arrays whose magnitudes differ by up to 2^12, so that the histogram must widen on the way."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    exponents = draw(st.lists(st.integers(-6, 6), min_size=1, max_size=6))
    kinds = draw(st.lists(st.sampled_from(["normal", "relu", "ints"]), min_size=6, max_size=6))
    chunks = []
    for exponent, kind in zip(exponents, kinds, strict=False):
        x = rng.normal(0, 2.0**exponent, draw(st.integers(1, 400)))
        x = {"normal": x, "relu": np.maximum(x, 0), "ints": np.rint(x)}[kind]
        chunks.append(x.astype(np.float32))
    return chunks


@given(chunk_lists())
def test_streaming_counts_what_one_histogram_of_everything_counts(chunks: list[F32]) -> None:
    everything = np.concatenate(chunks)
    found = streamed(chunks)
    if found.reach:
        edges = np.linspace(-found.reach, found.reach, BINS + 1)
        np.testing.assert_array_equal(found.bins, np.histogram(everything, edges)[0])
    assert found.low == min(0.0, everything.min())
    assert found.high == max(0.0, everything.max())
    assert found.count == everything.size


@pytest.mark.thorough
@given(chunk_lists(), st.randoms(use_true_random=False))
def test_the_order_of_the_chunks_does_not_matter(chunks: list[F32], random: Any) -> None:
    one = streamed(chunks)
    shuffled = list(chunks)
    random.shuffle(shuffled)
    other = streamed(shuffled)
    np.testing.assert_array_equal(one.bins, other.bins)
    assert (one.low, one.high, one.reach) == (other.low, other.high, other.reach)


@given(chunk_lists())
def test_the_reach_is_the_least_power_of_two_beyond_the_data(chunks: list[F32]) -> None:
    found = streamed(chunks)
    largest = max(float(np.abs(c).max()) for c in chunks)
    if largest:
        assert largest < found.reach <= 2 * largest
        assert np.log2(found.reach) % 1 == 0


@given(chunk_lists(), st.sampled_from([64, 512, BINS]))
def test_points_hold_the_mass_and_the_mean_of_the_histogram(chunks: list[F32], most: int) -> None:
    found = streamed(chunks)
    if not found.reach:
        return
    centres, weights = found.points(most)
    fine, mass = found.points()
    assert len(centres) <= max(most, 1)
    assert np.all(np.diff(centres) > 0)
    assert weights.sum() == pytest.approx(1)
    bin_width = 2 * found.reach / BINS
    assert (weights * centres).sum() == pytest.approx((mass * fine).sum(), abs=1e-9 * found.reach)
    assert (mass * fine).sum() == pytest.approx(np.concatenate(chunks).mean(dtype=float), abs=bin_width)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 5, 6, 7), 1), ((3, 4, 5), -1), ((9000, 3), -1), ((4, 3), 1)]
)
def test_moments_of_channels(shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(0)
    chunks = [rng.normal(0.5, 2, shape).astype(np.float32) for _ in range(3)]
    found = streamed(chunks, channel_axis=axis)
    everything = np.moveaxis(np.stack(chunks).astype(np.float64), axis if axis < 0 else axis + 1, -1)
    everything = everything.reshape(-1, shape[axis])
    assert found.channel_mean is not None
    assert found.channel_second_moment is not None
    np.testing.assert_allclose(found.channel_mean, everything.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.channel_second_moment, (everything**2).mean(0), rtol=1e-5)


def test_a_transposed_view_is_read_in_its_own_order() -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32).transpose(0, 2, 1)
    found = streamed([x], channel_axis=1)
    assert found.channel_mean is not None
    np.testing.assert_allclose(found.channel_mean, x.mean((0, 2)), atol=1e-6)


def test_without_an_axis_or_in_one_dimension_there_are_no_moments() -> None:
    assert streamed([np.ones((2, 2), np.float32)]).channel_mean is None
    assert streamed([np.ones(4, np.float32)], channel_axis=1).channel_second_moment is None


def test_a_large_tensor_is_sampled_for_the_histogram_only() -> None:
    x = np.random.default_rng(0).normal(size=5 * SAMPLE).astype(np.float32)
    x[12346] = 40.0  # not among the sampled: extremes read all
    found = streamed([x])
    assert SAMPLE <= found.bins.sum() < 2 * SAMPLE
    assert found.high == 40.0
    centres, weights = found.points()
    assert (weights * centres**2).sum() == pytest.approx((x**2).mean(), rel=0.02)


def test_memory_does_not_grow_with_what_is_read() -> None:
    rng = np.random.default_rng(0)
    found = TensorStatistics(channel_axis=1)
    sizes = []
    for i in range(30):
        found.update((rng.normal(size=(8, 4, 300)) * 2.0**i).astype(np.float32))
        sizes.append(sum(v.nbytes for v in vars(found).values() if isinstance(v, np.ndarray)))
    assert set(sizes) == {8 * BINS + 2 * 8 * 4}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noted(bad: float) -> None:
    assert not streamed([np.array([0.0, bad, 1.0], np.float32)]).finite


def test_an_empty_array_and_zeros_leave_no_range() -> None:
    found = streamed([np.zeros((0, 3), np.float32), np.zeros(8, np.float32)])
    assert (found.low, found.high, found.reach, found.count) == (0, 0, 0, 8)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1e18, 3e38])
def test_extreme_magnitudes_neither_overflow_nor_divide_by_zero(magnitude: float) -> None:
    x = np.array([[-magnitude, magnitude, 0, magnitude / 2]], np.float32)
    found = streamed([x, x], channel_axis=1)
    assert found.bins.sum() == 8
    assert found.channel_second_moment is not None
    np.testing.assert_allclose(found.channel_second_moment, x[0].astype(float) ** 2, rtol=1e-5, atol=1e-44)


def test_sums_over_many_rows_keep_their_digits() -> None:
    x = np.full((1 << 17, 2), 1.1, np.float32)
    first, _ = channel_sums(x, 1)
    np.testing.assert_allclose(first, np.float64(np.float32(1.1)) * (1 << 17), rtol=5e-6)
