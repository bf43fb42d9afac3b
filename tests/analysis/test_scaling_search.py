"""The loss of factors is the error of rounded layers on real columns, and what the search takes has the least."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.analysis.channel_samples import ChannelSample, ChannelSampler
from lpcompile.analysis.grams import Gram
from lpcompile.analysis.scaling_search import CONFIRMING, LEAST_FACTOR, MARGIN, Reader, _bounded, search
from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.quant.fit import fit

CHANNELS, TAPS, ROWS = 12, 3, 10
INT4 = WeightPlan("fixp4", scale_rule="mse")


def sampled(x: F32) -> ChannelSample:
    return ChannelSample(
        x, x.min(1).astype(np.float64), x.max(1).astype(np.float64), x.max(1).astype(np.float64)
    )


def reader(
    rng: np.random.Generator,
    *,
    groups: int = 1,
    kernel: Kernel = Kernel.INTEGER,
    levels: int = 256,
    weight: WeightPlan = INT4,
    spread: float = 1.0,
) -> tuple[Reader, F64]:
    """A layer and the columns (G, K, n) that its moments are of; taps of a channel hold different numbers."""
    reach = np.logspace(0, -spread, CHANNELS)
    columns = rng.normal(0, 1, (CHANNELS, TAPS, 400)) * reach[:, None, None] + reach[:, None, None] / 2
    by_group = columns.reshape(groups, -1, 400)
    matrix = np.einsum("gkn,gln->gkl", by_group, by_group) / 400
    gram = Gram(matrix.astype(np.float32), by_group.mean(2), 400)
    w = rng.normal(0, 0.5, (ROWS * groups, CHANNELS // groups * TAPS)).astype(np.float32)
    rows = np.repeat(np.arange(groups), ROWS)
    sample = sampled(columns[:, 0].astype(np.float32))
    return Reader(w, rows, np.arange(1, CHANNELS + 1), gram, sample, kernel, levels, weight), by_group


@pytest.mark.parametrize("groups", [1, 3])
def test_weights_lose_what_rounded_columns_show(groups: int) -> None:
    r, columns = reader(np.random.default_rng(groups), groups=groups, kernel=Kernel.WEIGHT_ONLY)
    s = np.random.default_rng(7).uniform(0.2, 1, CHANNELS + 1)
    by_tap = np.repeat(s[1:], TAPS).reshape(groups, -1)[r.groups]
    rounded = fit((r.rows * by_tap).astype(np.float32), resolve("fixp4"), rule="mse").dequantize() / by_tap
    centred = columns - columns.mean(2, keepdims=True)
    found, signal = 0.0, 0.0
    for row, error, g in zip(r.rows, rounded - r.rows, r.groups, strict=True):
        found += ((error @ centred[g]) ** 2).mean()
        signal += ((row @ centred[g]) ** 2).mean()
    assert r.loss(s) == pytest.approx(found / signal, rel=1e-3)


def test_means_count_where_no_bias_takes_them() -> None:
    rng = np.random.default_rng(2)
    r, columns = reader(rng, kernel=Kernel.WEIGHT_ONLY)
    full = Reader(r.rows, r.groups, r.index, r.gram, r.sample, r.kernel, r.levels, r.weight, centred=False)
    error = fit(r.rows, resolve("fixp4"), rule="mse").dequantize() - r.rows
    wanted = ((error @ columns[0]) ** 2).mean(1).sum() / ((r.rows @ columns[0]) ** 2).mean(1).sum()
    assert full.loss(np.ones(CHANNELS + 1)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("kernel", [Kernel.INTEGER, Kernel.DYNAMIC, Kernel.NBITS])
def test_activations_lose_what_rounded_samples_show(kernel: Kernel) -> None:
    r, _ = reader(np.random.default_rng(3), kernel=kernel)
    fine = WeightPlan("int8", scale_rule="absmax")
    r = Reader(r.rows, r.groups, r.index, r.gram, r.sample, kernel, 256, fine)
    still = Reader(r.rows, r.groups, r.index, r.gram, r.sample, Kernel.WEIGHT_ONLY, 256, fine)
    s = np.random.default_rng(4).uniform(0.3, 1, CHANNELS + 1)
    x = r.sample.values / s[1:, None]
    if kernel is Kernel.NBITS:
        step = np.abs(x).max(0) / 127
        rounded = np.rint(x / step) * step
    else:
        low, high = min(x.min(), 0), max(x.max(), 0)
        step = (high - low) / 255
        zero = np.rint(-low / step)
        rounded = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    noise = ((rounded - x) ** 2).mean(1)
    gain = (r.rows.astype(np.float64).reshape(ROWS, CHANNELS, TAPS) ** 2).sum((0, 2)) * s[1:] ** 2
    assert (r.loss(s) - still.loss(s)) * r.power() == pytest.approx(noise @ gain, rel=1e-6)


def test_few_levels_clip() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (CHANNELS, 500)).astype(np.float32)
    x[0, 0] = 60
    base, _ = reader(rng)
    four = Reader(base.rows, base.groups, base.index, base.gram, sampled(x), Kernel.INTEGER, 16, base.weight)
    wide = 61 / 15  # a step that holds everything
    assert four._activation_noise(np.ones(CHANNELS)) < wide**2 / 12 * float((base.rows**2).sum())


def test_uneven_channels_are_scaled_and_the_loss_falls() -> None:
    readers = [reader(np.random.default_rng(i), spread=2.0, levels=16)[0] for i in range(2)]
    found = search(readers, CHANNELS + 1)
    assert found is not None
    assert found.factors[0] == 1
    one = np.ones(CHANNELS + 1)
    now, then = (sum(r.loss(s, CONFIRMING) for r in readers) for s in (one, found.factors))
    assert found.gain_db == pytest.approx(10 * np.log10(now / then))
    assert found.gain_db > 0.5


def test_float_layers_and_dead_ones_ask_for_nothing() -> None:
    r, _ = reader(np.random.default_rng(0), kernel=Kernel.FLOAT)
    assert search([r], CHANNELS + 1) is None
    dead = Reader(np.zeros_like(r.rows), r.groups, r.index, r.gram, r.sample, Kernel.INTEGER, 256, INT4)
    assert search([dead], CHANNELS + 1) is None


def test_roundings_one_after_the_other_count_what_they_cannot_pass_on() -> None:
    rng = np.random.default_rng(9)
    r, columns = reader(rng, kernel=Kernel.WEIGHT_ONLY)
    covariance = np.cov(columns[0], bias=True)
    wanted = [
        covariance[k, k]
        - covariance[k, k + 1 :] @ np.linalg.pinv(covariance[k + 1 :, k + 1 :]) @ covariance[k + 1 :, k]
        for k in range(len(covariance))
    ]
    np.testing.assert_allclose(r.unforeseen[0], wanted, rtol=0.15, atol=0.01 * np.trace(covariance))
    with_gptq = WeightPlan("fixp4", scale_rule="mse", rounding="gptq")
    other = Reader(r.rows, r.groups, r.index, r.gram, r.sample, r.kernel, 256, with_gptq)
    error = fit(r.rows, resolve("fixp4"), rule="mse").dequantize() - r.rows
    assert other.loss(np.ones(CHANNELS + 1)) * other.power() == pytest.approx(
        (error**2 @ r.unforeseen[0]).sum()
    )


@given(seed=st.integers(0, 99), bound=st.floats(1, 20))
@settings(max_examples=30, deadline=None)
def test_bounds_are_kept_at_a_distance(seed: int, bound: float) -> None:
    rng = np.random.default_rng(seed)
    peak = rng.uniform(0, 1.5 * bound, CHANNELS)
    sample = ChannelSample(np.zeros((CHANNELS, 1), np.float32), 0 * peak, peak, peak)
    index = np.arange(1, CHANNELS + 1)
    s = _bounded(rng.uniform(1e-3, 5, CHANNELS + 1), [(index, sample, bound)])
    assert s[0] == 1
    assert (s >= LEAST_FACTOR).all()
    assert (s <= 1).all()
    near = MARGIN * peak > bound
    assert (s[1:][near] == 1).all()
    assert (MARGIN * peak[~near] / s[1:][~near] <= bound * (1 + 1e-9)).all()


def test_samples_hold_ranges_of_half_of_the_calls() -> None:
    rng = np.random.default_rng(0)
    calls = [rng.normal(0, 1, (2, 3, 4, 5)).astype(np.float32) for _ in range(6)]
    sampler = ChannelSampler(1, len(calls))
    for x in calls:
        sampler.add(x, np.random.default_rng(1))
    found = sampler.result()
    planes = [np.moveaxis(x, 1, 0).reshape(3, -1) for x in calls]
    np.testing.assert_array_equal(found.low, np.minimum(0, np.concatenate(planes[::2], 1).min(1)))
    np.testing.assert_array_equal(found.high, np.concatenate(planes[::2], 1).max(1))
    np.testing.assert_array_equal(found.peak, np.concatenate(planes, 1).max(1))
    np.testing.assert_array_equal(found.values, np.concatenate(planes[1::2], 1))  # few positions: all of them
    assert (found.largest >= found.mean_magnitude).all()


def test_one_call_gives_both() -> None:
    sampler = ChannelSampler(-1, 1)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    sampler.add(x, np.random.default_rng(0))
    found = sampler.result()
    np.testing.assert_array_equal(found.values, x.T)
    np.testing.assert_array_equal(found.high, [9, 10, 11])


def test_channels_may_count_as_one() -> None:
    sampler = ChannelSampler(None, 2)
    for n in (3, 5):  # of any size
        sampler.add(np.arange(n, dtype=np.float32), np.random.default_rng(0))
    found = sampler.result()
    assert found.high.tolist() == [2]
    assert found.peak.tolist() == [4]
    assert found.values.shape == (1, 5)
