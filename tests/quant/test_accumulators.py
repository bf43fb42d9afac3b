"""Bounds of accumulators: reached by some inputs, passed by none."""

import itertools

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.quant.accumulators import (
    BIAS_UNITS,
    INT32_MAX,
    fits_any_weights,
    int32_obstacle,
    largest_sum,
)
from lpcompile.quant.fit import fit


def test_a_bound_of_a_sum_is_the_largest_there_is() -> None:
    """All corners of inputs and zero points, which a linear form takes its extremes at."""
    w8 = np.array([[3, -7, 5], [-128, 1, -2], [0, 0, 0]], np.int8)
    reached = 0
    for x, zero in itertools.product(itertools.product((0, 255), repeat=3), (0, 255)):
        reached = max(reached, int(np.abs(w8.astype(np.int64) @ (np.array(x) - zero)).max()))
    assert largest_sum(w8) == reached == 255 * 130


def test_few_products_need_no_proof() -> None:
    most = next(k for k in range(32_000, 34_000) if not fits_any_weights(k)) - 1
    assert most * 128 * 255 + BIAS_UNITS <= INT32_MAX < (most + 1) * 128 * 255 + BIAS_UNITS


@pytest.mark.parametrize(("width", "fits"), [(1.0, False), (4.0, True)])
def test_many_products_are_judged_by_their_weights(width: float, fits: bool) -> None:
    """One outlier makes the other weights small integers."""
    weights = np.full((1, 40_000), 0.5, np.float32)
    weights[0, 0] = 0.5 * width
    assert (not int32_obstacle(fit(weights, resolve("int8")))) == fits
