"""Sums of two products in int16, beside a kernel that saturates, in numpy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lpcompile.quant.neighbours import least_pair_scales, pair_limit, pair_sums, pairs_saturate
from tests.saturating import saturating_sums

IN_ORDER = np.arange(8)
WEIGHTS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.floats(-4, 4, width=32)
)


@pytest.mark.parametrize(
    ("row", "saturates"),
    [
        ([64, 64, 0], False),
        ([64, 65, 0], True),
        ([64, 0, 65], False),  # no neighbours
        ([0, 64, 65], False),  # of two pairs
        ([0, 0, 127], False),  # left over
        ([127, 1, -127], False),
        ([127, -127], False),
        ([-64, -64], False),
        ([-64, -65], True),
        ([-128, 0], False),
        ([-128, -1], True),
    ],
)
def test_two_products_of_one_row(row: list[int], saturates: bool) -> None:
    """255 * 128 is the last that fits."""
    w8, order = np.array([row], np.int8), np.arange(len(row))
    corners = [np.array(x) for x in itertools.product((0, 255), repeat=len(row))]
    assert saturates == any(saturating_sums(x, w8[0]) != int(x @ w8[0].astype(int)) for x in corners)
    assert pairs_saturate(w8, order) == saturates
    assert not pairs_saturate(w8, order, 15)  # inputs of 4 bits
    assert not pairs_saturate(w8[:, :0], order[:0])


def test_neighbours_are_those_of_the_order() -> None:
    w8 = np.array([[100, 1, 100, 2]], np.int8)
    assert not pairs_saturate(w8, np.array([0, 1, 2, 3]))
    assert pairs_saturate(w8, np.array([0, 2, 1, 3]))
    assert not pairs_saturate(w8, np.array([1, 0, 2, 3]))
    np.testing.assert_array_equal(pair_sums(w8.astype(int), np.array([3, 0, 2, 1])), [[102, 101]])


def test_the_limit_is_the_last_sum_that_fits() -> None:
    for code in (1, 15, 127, 255):
        assert code * pair_limit(code) <= 2**15 - 1 < code * (pair_limit(code) + 1)
    assert (pair_limit(), pair_limit(15)) == (128, 2184)


@given(WEIGHTS)
def test_rows_rounded_to_nearest_under_the_least_scales_never_saturate(rows: np.ndarray) -> None:
    order = IN_ORDER[: rows.shape[1]]
    scales = np.maximum(least_pair_scales(rows, order), np.abs(rows).max(axis=1) / np.float32(127))
    w8 = np.rint(np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0))
    assert np.abs(w8).max() <= 127
    assert not pairs_saturate(w8.astype(np.int8), order)


def test_the_least_scales_are_no_larger_than_the_largest_pair_wants() -> None:
    """2.0 and 1.0 are neighbours: 3.0 becomes 127 of the 128 that fit, with half a step of rounding for each."""
    rows = np.array([[2.0, 1.0, 2.5, -2.5], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(least_pair_scales(rows, np.arange(4)), [3 / 127, 0], rtol=1e-6)
    np.testing.assert_allclose(least_pair_scales(rows, np.arange(4), 15), [3 / 2183, 0], rtol=1e-6)
