"""Multipliers of few bits: the computed vectors of the notes on PikeLPN (6.6 to 6.9), laws, and numbers at the edge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.passes.snapped_scales import snapped
from lpcompile.quant.dyadic import Codes, affine_requant, requantised
from lpcompile.quant.granularity import PerAxis
from lpcompile.quant.multipliers import (
    dyadic,
    grid_around,
    held_line,
    held_multipliers,
    integer_bits,
    is_snapped,
    multiplier_bits,
    nearest_po2,
)
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.short_multipliers import short_multipliers

S = np.array([0.0123, 0.0091, 0.03, 0.0007, 0.0178])
finite = st.floats(2.0**-40, 2.0**40, allow_nan=False)


def test_a_batch_norm_as_one_slope_and_one_shift() -> None:
    gamma, beta = np.array([1.2, 0.8, -0.5]), np.array([0.1, -0.3, 0.0])
    mean, variance = np.array([0.2, -1.0, 3.0]), np.array([0.5, 2.0, 9.0])
    a = gamma / np.sqrt(variance + 1e-3)
    c = beta - a * mean
    np.testing.assert_allclose(a, [1.69536176, 0.56554406, -0.16665741], atol=5e-9)
    np.testing.assert_allclose(c, [-0.23907235, 0.26554406, 0.49997222], atol=5e-9)
    np.testing.assert_array_equal(nearest_po2(a), [2, 0.5, -0.125])
    x = np.array([1.0, -2.0, 5.0])
    np.testing.assert_allclose(a * x + c, [1.45628941, -0.86554406, -0.33331482], atol=5e-9)
    a_q, c_same = held_line(a, c, "po2")
    np.testing.assert_allclose(a_q * x + c_same, [1.76092765, -0.73445594, -0.12502778], atol=5e-9)
    a_q, c_q = held_line(a, c, "po2", mean)
    np.testing.assert_allclose(c_q, beta - a_q * mean, atol=1e-15)
    np.testing.assert_allclose(a_q * mean + c_q, beta, atol=1e-15)
    assert np.abs(c_q - c_same).max() > 0.06


def test_scales_as_powers_of_two() -> None:
    found = nearest_po2(S)
    np.testing.assert_array_equal(np.log2(found), [-6, -7, -5, -10, -6])
    np.testing.assert_allclose(found / S, [1.2703, 0.8585, 1.0417, 1.3951, 0.8778], atol=5e-5)


def test_scales_of_eight_bits() -> None:
    m, e = dyadic(S, 8)
    np.testing.assert_array_equal(m, [202, 149, 246, 184, 146])
    np.testing.assert_array_equal(e + 8, [-6, -6, -5, -10, -5])
    errors = np.ldexp(m, e.astype(np.int32)) / S - 1
    np.testing.assert_allclose(errors, [0.00237, -0.00063, 0.00098, 0.00272, 0.00125], atol=5e-6)


def test_an_integer_requantisation() -> None:
    acc, scale = np.array([1000, -340, 77]), held_multipliers(S[:3], "dyadic-8")
    reach = np.full(3, 2000)
    r = affine_requant(scale, np.zeros(3), -reach, reach, Codes(100, 0, 255), integer_bits("dyadic-8"))
    np.testing.assert_array_equal(r.m, [202, 149, 246])
    np.testing.assert_array_equal(r.k, [8 + 6, 8 + 6, 8 + 5])
    np.testing.assert_array_equal(r.b, np.int64(1) << (r.k - 1))
    np.testing.assert_array_equal(requantised(acc, r) - 100, [12, -3, 2])
    np.testing.assert_allclose(acc * scale, [12.329, -3.092, 2.312], atol=6e-4)


def test_scales_that_make_multipliers_powers_of_two() -> None:
    w = np.array([[0.31, -0.12, 0.05], [0.02, 0.6, -0.4]], np.float32)
    a, s_x, s_y = np.array([1.7, 0.57]), 0.05, 0.08
    largest = np.abs(w).max(1) / np.float32(127)
    before = nearest_codes(
        w, QuantizedTensor(np.zeros((2, 3), np.uint8), resolve("int8"), PerAxis(0), largest)
    )
    np.testing.assert_array_equal(before.int8_image()[0], [[127, -49, 20], [4, 127, -85]])
    m = a * largest * s_x / s_y
    np.testing.assert_allclose(m, [0.0025935, 0.00168307], atol=5e-8)
    found, ratio = snapped(w, before, m, 1)
    np.testing.assert_array_equal(m * ratio, [2.0**-8, 2.0**-9])
    np.testing.assert_allclose(channel_scales(found), [0.00367647, 0.00548246], atol=5e-9)
    np.testing.assert_array_equal(found.int8_image()[0], [[84, -33, 14], [4, 109, -73]])
    assert np.abs(found.int8_image()[0].astype(int)).max() <= 127
    exact = channel_scales(found).astype(np.float64) * s_x * a / s_y
    np.testing.assert_allclose(exact, [2.0**-8, 2.0**-9], rtol=1e-7)


def test_the_side_that_loses_less_is_taken_and_a_floor_is_kept() -> None:
    w = np.array([[1.0, 0.26, 0.27, -0.24, 0.25, 0.26] * 8], np.float32)
    like = QuantizedTensor(
        np.zeros(w.shape, np.uint8), resolve("int4"), PerAxis(0), np.array([0.25], np.float32)
    )
    assert snapped(w, like, np.array([0.3]), 1)[1] * 0.3 == 0.25
    floor = np.array([0.26], np.float32)
    assert snapped(w, like, np.array([0.3]), 1, min_scale=floor)[1] * 0.3 == 0.5


@given(st.lists(finite, min_size=1, max_size=6), st.integers(2, 15))
def test_a_multiplier_of_b_bits_is_off_by_at_most_two_to_the_minus_b(numbers: list[float], bits: int) -> None:
    values = np.array(numbers)
    found = held_multipliers(values, f"dyadic-{bits}")
    assert (np.abs(found / values - 1) <= 2.0**-bits).all()
    m, _ = dyadic(values, bits)
    assert ((m >= 2 ** (bits - 1)) & (m < 2**bits)).all()
    np.testing.assert_array_equal(held_multipliers(found, f"dyadic-{bits}"), found)


@given(finite, st.integers(1, 8))
def test_grid_neighbours_enclose_a_number(value: float, bits: int) -> None:
    low, high = (float(g[0]) for g in grid_around(np.array([value]), bits))
    assert low <= value <= high <= 2 * low
    m, _ = dyadic(np.array([low, high]), bits)
    np.testing.assert_array_equal(m, np.rint(m))
    if bits == 1:
        np.testing.assert_array_equal(nearest_po2(np.array([low, high])), [low, high])


@given(st.lists(finite, min_size=1, max_size=6))
def test_powers_of_two_are_within_a_factor_of_the_root_of_two(numbers: list[float]) -> None:
    ratio = nearest_po2(np.array(numbers)) / np.array(numbers)
    assert ((ratio >= 2**-0.5 - 1e-12) & (ratio <= 2**0.5 + 1e-12)).all()


@pytest.mark.parametrize("held", ["dyadic-8", "dyadic-2", "po2", "snap-po2", "dyadic-16"])
def test_zeros_signs_and_tiny_numbers(held: str) -> None:
    values = np.array([0.0, -0.75, 2.0**-300])
    found = held_multipliers(values, held)
    assert found[0] == 0
    assert found[1] == -held_multipliers(-values, held)[1] < 0
    assert found[2] > 0
    r = affine_requant(
        found, np.ones(3), np.full(3, -99), np.full(3, 99), Codes(0, 0, 255), integer_bits(held)
    )
    assert np.abs(r.m).max() < 2 ** max(8, multiplier_bits(held))
    np.testing.assert_array_equal(requantised(np.array([50, 0, 50]), r), [1, 1, 1])


def test_names() -> None:
    assert [
        multiplier_bits(n) for n in ("", "po2", "snap-po2", "dyadic-8", "snap-dyadic-3", "dyadic-16")
    ] == [*(15, 1, 1, 8, 3, 15)]
    assert [is_snapped(n) for n in ("", "po2", "snap-po2", "snap-dyadic-9")] == [False, False, True, True]
    for wrong in ("dyadic-1", "dyadic-17", "dyadic", "snap", "po2-3", "dyadic-٣"):
        with pytest.raises(FormatError, match="no multiplier is held as"):
            multiplier_bits(wrong)


def test_five_bits_are_stored_in_eight_exactly_or_not_at_all() -> None:
    values = np.array([31 * 2.0**-20, 2.0**-9, 3.0, 2.0**-15])
    short = short_multipliers(values[1:3])
    assert short is not None
    np.testing.assert_array_equal(short.dequantize(), values[1:3])
    assert short.dequantize().dtype == np.float32
    assert short_multipliers(values) is None  # exponents too far apart
    assert short_multipliers(np.array([33.0])) is None  # six bits
    assert short_multipliers(np.array([1.0, 0.0])) is None
    assert short_multipliers(np.array([2.0**-140])) is None
    least = np.array([17 * 2.0**-126])
    assert short_multipliers(least / 2) is None
    short = short_multipliers(least)
    assert short is not None
    np.testing.assert_array_equal(short.dequantize(), least)
