"""Estimators against the numbers of the paper notes, closed integrals and the rule of learned step sizes."""

import itertools

import numpy as np
import pytest

from lpcompile.formats.arrays import F32
from lpcompile.tuning.estimators import Cells, Estimator

POSIT4_SC4 = np.array([0, 1, 2, 3, 4, 6, 8, 16]) / 16.0


def cell(x: F32, low: float, high: float, inside: bool = True) -> Cells:
    ones = np.ones_like(x)
    return Cells(x, ones * np.float32(low), ones * np.float32(high), ones > (0 if inside else 1), ones)


def slopes(name: str, x: list[float], low: float, high: float, **options: object) -> F32:
    return Estimator(name, **options).slope(cell(np.array(x, np.float32), low, high))  # type: ignore[arg-type]


def test_the_tanh_slope_has_the_values_of_the_notes() -> None:
    low, high = 0.25, 0.375
    gap, middle = high - low, (low + high) / 2
    found = slopes("tanh", [middle, low, high, middle - gap / 4, middle + gap / 4], low, high)
    np.testing.assert_allclose(found, [2.5, 0.066481, 0.066481, 0.701037, 0.701037], rtol=2e-5)


def test_the_tanh_slope_is_the_derivative_of_the_smooth_step() -> None:
    assert slopes("tanh", [0.29], 0.25, 0.375)[0] == pytest.approx(1.217293, rel=1e-5)
    x, h = np.linspace(0.25, 0.375, 101)[1:-1], 1e-6

    def smooth(x: np.ndarray) -> np.ndarray:
        return 0.3125 + 0.0625 * np.tanh(5 * (x - 0.3125) / 0.125)

    wanted = (smooth(x + h) - smooth(x - h)) / (2 * h)
    np.testing.assert_allclose(slopes("tanh", list(x), 0.25, 0.375), wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["tanh", "linear"])
@pytest.mark.parametrize("steepness", [2.0, 5.0, 9.0])
def test_the_mean_over_every_cell_is_the_same_whatever_its_width(name: str, steepness: float) -> None:
    for low, high in itertools.pairwise(POSIT4_SC4):
        x = low + (high - low) * (np.arange(4000) + 0.5) / 4000
        mean = float(slopes(name, list(x), low, high, steepness=steepness).mean())
        assert mean == pytest.approx(np.tanh(steepness / 2), rel=1e-3)
    assert np.tanh(2.5) == pytest.approx(0.986614, abs=1e-6)


def test_the_linear_slope_is_a_triangle_over_the_cell() -> None:
    found = slopes("linear", [0.25, 0.28125, 0.3125, 0.375], 0.25, 0.375)
    np.testing.assert_allclose(found, [0, 0.986614, 2 * 0.986614, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["ste", "tanh", "linear", "lsq"])
@pytest.mark.parametrize(("outside", "wanted"), [("clipped", 0.0), ("through", 1.0)])
def test_outside_of_the_table_the_slope_is_switchable(name: str, outside: str, wanted: float) -> None:
    x = np.array([1.5], np.float32)
    assert Estimator(name, outside=outside).slope(cell(x, 0.5, 1.0, inside=False))[0] == wanted


def test_the_straight_slope_is_one_inside() -> None:
    assert (slopes("ste", [0.25, 0.3, 0.375], 0.25, 0.375) == 1).all()


def test_the_slope_of_a_scale_is_that_of_learned_step_sizes() -> None:
    q_n, q_p, s = 8, 7, 0.3
    w = np.array([-4.0, -2.43, -1.03, -0.02, 0.5, 1.0, 2.08, 2.2, 3.1])
    x = w / s
    wanted = np.where(x <= -q_n, -q_n, np.where(x >= q_p, q_p, np.rint(x) - x))
    low = np.clip(np.floor(x), -q_n, q_p - 1)
    cells = Cells(
        x.astype(np.float32),
        low.astype(np.float32),
        (low + 1).astype(np.float32),
        (x >= -q_n) & (x <= q_p),
        np.clip(np.rint(x), -q_n, q_p).astype(np.float32),
    )
    estimator = Estimator("lsq")
    found = estimator.scale_slope(cells, estimator.slope(cells))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="option 'estimator' is one of ste, tanh, linear, lsq, not 'relu'"):
        Estimator("relu")
    with pytest.raises(ValueError, match="option 'outside'"):
        Estimator("ste", outside="0")
    with pytest.raises(ValueError, match="option 'steepness' is positive"):
        Estimator("ste", steepness=0)
