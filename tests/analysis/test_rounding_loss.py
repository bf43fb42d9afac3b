"""What rounding loses, against the plain definition in float64."""

import numpy as np
import pytest

from lpcompile.analysis.rounding_loss import column_energy, output_sqnr_db, ratio_db


def test_energies_are_the_definition() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((150, 37)).astype(np.float32)
    rounded = (np.rint(w * 4) / 4).astype(np.float32)
    signal, noise = column_energy(w, rounded)
    np.testing.assert_allclose(signal, (w.astype(np.float64) ** 2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(noise, ((rounded.astype(np.float64) - w) ** 2).sum(0), rtol=1e-5)


def test_output_estimate_is_met_by_uncorrelated_inputs() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((20, 60)).astype(np.float32)
    rounded = (w + 0.05 * rng.standard_normal(w.shape)).astype(np.float32)
    spread, step = rng.uniform(0.2, 3, 60), 0.3
    x = rng.standard_normal((60, 40_000)) * spread[:, None]
    read = np.rint(x / step) * step
    error = rounded.astype(np.float64) @ read - w.astype(np.float64) @ x
    measured = 10 * np.log10(((w.astype(np.float64) @ x) ** 2).sum() / (error**2).sum())
    signal, noise = column_energy(w, rounded)
    estimate = output_sqnr_db(signal, noise, (spread**2).astype(np.float32), step)
    assert estimate == pytest.approx(measured, abs=0.15)


def test_nothing_lost_has_no_figure() -> None:
    w = np.ones((2, 3), np.float32)
    signal, noise = column_energy(w, w)
    assert ratio_db(float(signal.sum()), float(noise.sum())) is None
