"""Spearman's rank correlation."""

import math

import numpy as np

from lpcompile.analysis.rank_correlation import ranks, spearman


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 7.0])), [2.5, 1, 2.5, 4])


def test_a_case_by_hand() -> None:
    # ranks 1 2 3 4 5 against 2 1 4 3 5: sum of squared differences 4, 1 - 6 * 4 / (5 * 24)
    assert math.isclose(spearman(np.arange(5.0), np.array([20.0, 10.0, 40.0, 30.0, 50.0])), 0.8)


def test_ties_count_as_pearsons_correlation_of_ranks() -> None:
    # ranks 1 2.5 2.5 4 against 1 2 3 4: covariance 4.5, variances 4.5 and 5
    found = spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert math.isclose(found, 4.5 / math.sqrt(4.5 * 5))


def test_what_has_no_order_has_no_correlation() -> None:
    assert math.isnan(spearman(np.ones(3), np.arange(3.0)))
    assert math.isnan(spearman(np.array([1.0]), np.array([2.0])))
    assert math.isnan(spearman(np.array([1.0, np.nan]), np.array([1.0, 2.0])))
