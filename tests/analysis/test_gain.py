"""The gain of a step in dB against its definition, and its standard error against the bootstrap."""

import numpy as np
import pytest

from lpcompile.analysis.gain import gain_db
from lpcompile.formats.arrays import F64


def noise(samples: int, shared: float, seed: int = 0) -> tuple[F64, F64]:
    """Noise of samples before and after a step that takes a third of it; `shared` of the logs is common to both."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(0, shared, samples), rng.normal(0, 0.2, (2, samples))
    before, after = np.exp(common + own)
    return before, after * 2 / 3


def test_it_is_the_ratio_of_the_means() -> None:
    before, after = noise(50, 0.5)
    gain, _ = gain_db(before, after)
    assert gain == pytest.approx(10 * np.log10(before.sum() / after.sum()))
    assert gain_db(after, before)[0] == pytest.approx(-gain)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_its_error_is_that_of_the_bootstrap(shared: float) -> None:
    before, after = noise(200, shared)
    draws = np.random.default_rng(1).integers(0, 200, (4000, 200))
    ratios = 10 * np.log10(before[draws].mean(axis=1) / after[draws].mean(axis=1))
    assert gain_db(before, after)[1] == pytest.approx(ratios.std(), rel=0.06)


def test_what_samples_share_is_no_uncertainty() -> None:
    before, _ = noise(40, 1.0)
    gain, error = gain_db(before, before / 2)
    assert gain == pytest.approx(10 * np.log10(2))
    assert error == pytest.approx(0, abs=1e-12)


def test_one_sample_has_no_known_error() -> None:
    gain, error = gain_db(np.array([2.0]), np.array([1.0]))
    assert gain == pytest.approx(10 * np.log10(2))
    assert error == np.inf


@pytest.mark.filterwarnings("error")
def test_no_noise_at_all() -> None:
    zero, some = np.zeros(5), np.ones(5)
    assert gain_db(zero, zero) == (0.0, 0.0)
    assert gain_db(some, zero)[0] > 1000
    assert gain_db(zero, some)[0] < -1000
