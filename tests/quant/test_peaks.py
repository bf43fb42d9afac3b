"""How far the largest weights of rows stand out, against a sum by hand and against rounding."""

import numpy as np
import pytest

from lpcompile.quant.peaks import peak_db, peak_energy


def test_by_hand() -> None:
    rows = np.array([[1, -2, 0, 0, 4], [3, 0, 0, 0, 0]], np.float32)
    assert peak_energy(rows) == 5 * 16 + 5 * 9
    assert peak_energy(rows, 2) == (2 * 4 + 0 + 16) + 2 * 9
    assert peak_db(rows) == pytest.approx(10 * np.log10(125 / (1 + 4 + 16 + 9)))


def test_weights_of_one_size_do_not_stand_out_and_zeros_are_no_error() -> None:
    assert peak_db(np.full((3, 7), -2.5, np.float32)) == pytest.approx(0)
    assert peak_db(np.zeros((3, 7), np.float32)) == 0
    assert peak_db(np.zeros((3, 0), np.float32)) == 0


def test_it_tells_the_error_of_nearest_codes() -> None:
    """Errors of a grid of steps d are d^2 / 12 on average: 6.02 dB a bit less what the row's largest stands out."""
    rows = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    rows[:, 7] += 20
    step = np.abs(rows).max(1, keepdims=True) / 127
    error = rows - np.rint(rows / step) * step
    sqnr_db = 10 * np.log10(np.square(rows).sum() / np.square(error).sum())
    assert sqnr_db == pytest.approx(10 * np.log10(12 * 127**2) - peak_db(rows), abs=0.3)
