"""Integers in place of real scales and shifts, against exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lpcompile.quant.dyadic import (
    EXACT_IN_FLOAT32,
    MOST_SHIFT,
    RADIX,
    Codes,
    Requant,
    accumulator_reach,
    affine_requant,
    digits_needed,
    requantised,
    shifts,
    split_digits,
    sum_requant,
)

OUT = Codes(7, 0, 255)
scales = st.floats(2.0**-40, 2.0**14)
shift_values = st.floats(-(2.0**24), 2.0**24)
reaches = st.integers(0, 2**31 - 1)


def one(scale: float, shift: float, reach: int, out: Codes = OUT) -> Requant:
    most = np.array([reach])
    return affine_requant(np.array([scale]), np.array([shift]), -most, most, out)


def code(r: Requant, acc: int) -> int:
    return int(requantised(np.array([acc]), r)[0])


@given(scales, shift_values, reaches, st.data())
def test_off_by_no_more_than_the_multiplier_may_be(
    scale: float, shift: float, reach: int, data: st.DataObject
) -> None:
    """Before rounding, half up, the result differs by at most (|acc| + 1) 2^-(k+1) from the real one."""
    r = one(scale, shift, reach)
    acc, k = data.draw(st.integers(-reach, reach)), int(r.k[0])
    real = Fraction(scale) * acc + Fraction(shift)
    bound = Fraction(abs(acc) + 1, 2 ** (k + 1))
    low, high = (floor(real + s * bound + Fraction(1, 2)) + OUT.zero for s in (-1, 1))
    found = code(r, acc)
    assert min(max(low, 0), 255) <= found <= min(max(high, 0), 255)


@given(scales, shift_values, reaches)
@example(2.0**-40, 2.0**24, 2**31 - 1)
def test_every_intermediate_number_is_exact_in_float64(scale: float, shift: float, reach: int) -> None:
    r = one(scale, shift, reach)
    m, b, k = int(r.m[0]), int(r.b[0]), int(r.k[0])
    assert 0 <= k <= MOST_SHIFT
    assert abs(m) < 2**15
    for acc in (-reach, reach):
        assert abs(acc * m + b) + (r.zero << k) < 2**52


@given(scales, st.floats(2.0**10, 2.0**24), reaches, st.sampled_from([-1, 1]), st.sampled_from([0, 7]))
@example(2.0**-14, 2.0**24 - 1, 2**31 - 1, 1, 0)  # the shift alone would be exact
@example(2.0**-14, 2.0**24 - 1, 2**31 - 1, -1, 0)
@example(2.0**-14, 2.0**24 - 4, 0, 1, 7)  # and without the zero of the codes
def test_accumulators_of_one_sign_are_exact_with_shifts_of_either(
    scale: float, shift: float, reach: int, sign: int, zero: int
) -> None:
    least, most = sorted((0, sign * reach))
    for signed in (shift, -shift):
        bounds = np.array([least]), np.array([most])
        r = affine_requant(np.array([scale]), np.array([signed]), *bounds, Codes(zero, 0, 255))
        m, b, k = int(r.m[0]), int(r.b[0]), int(r.k[0])
        assert max(abs(acc * m + b) for acc in (least, most)) + (r.zero << k) < 2**52


@given(scales, shift_values, reaches, st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=8))
def test_monotone(scale: float, shift: float, reach: int, accs: list[int]) -> None:
    r = one(scale, shift, reach)
    inside = np.array(sorted(max(-reach, min(reach, a)) for a in accs))
    assert (np.diff(requantised(inside, r)) >= 0).all()


@given(scales)
@example(1 - 2.0**-20)  # rounds up to the next power of two
def test_the_multiplier_uses_its_bits(scale: float) -> None:
    (k,) = shifts(np.array([scale]))
    m = round(Fraction(scale) * 2 ** int(k))
    assert m < 2**15
    if k < MOST_SHIFT:
        assert m >= 2**14 - 1
        assert round(Fraction(scale) * 2 ** (int(k) + 1)) >= 2**15 - 1


def test_channels_are_independent() -> None:
    scale, shift = np.array([1e-3, 0.0, -2.5]), np.array([3.25, 100.5, 0.0])
    most = np.array([1000, 0, 100])
    together = affine_requant(scale, shift, -most, most, OUT)
    for i in range(3):
        alone = one(float(scale[i]), float(shift[i]), int(most[i]))
        assert (together.m[i], together.b[i], together.k[i]) == (alone.m[0], alone.b[0], alone.k[0])


def test_a_dead_channel_gives_its_shift() -> None:
    r = one(0.0, 12.5, 0)
    assert code(r, 0) == 13 + OUT.zero
    assert r.m[0] == 0


@pytest.mark.parametrize("shift", [2.0**60, -(2.0**60), 1e300])
def test_a_shift_that_no_integer_holds_saturates(shift: float) -> None:
    r = one(0.01, shift, 1000)
    assert code(r, 1000) == code(r, -1000) == (255 if shift > 0 else 0)


def test_a_scale_beyond_16_bits_saturates() -> None:
    r = one(1e9, 0.0, 1000)
    assert [code(r, a) for a in (-1, 0, 1)] == [0, OUT.zero, 255]


def test_limits_hold() -> None:
    r = one(1.0, 0.0, 1000, Codes(10, 10, 15))
    assert [code(r, a) for a in (-500, 0, 3, 500)] == [10, 10, 13, 15]


@given(
    st.floats(1e-4, 100.0),
    st.floats(1e-4, 100.0),
    st.integers(0, 255),
    st.integers(0, 255),
    st.booleans(),
    st.integers(0, 255),
)
def test_a_sum_keeps_zero_and_is_near(a: float, b: float, z_a: int, z_b: int, minus: bool, z_y: int) -> None:
    scale = (a, -b if minus else b)
    r = sum_requant(scale, (z_a, z_b), Codes(z_y, 0, 255))
    x, y = (v.reshape(-1) for v in np.meshgrid(np.arange(0, 256, 15), np.arange(0, 256, 15)))
    found = np.clip(((x * r.m[0] + y * r.m[1] + r.b[0]) >> r.k[0]) + r.zero, r.low, r.high)
    real = scale[0] * (x - z_a) + scale[1] * (y - z_b)
    bound = 512 * 2.0 ** -(int(r.k[0]) + 1) + 1e-9
    low, high = (np.clip(np.floor(real + s * bound + 0.5) + z_y, 0, 255) for s in (-1, 1))
    assert ((low <= found) & (found <= high)).all()
    at_zero = (z_a * r.m[0] + z_b * r.m[1] + r.b[0]) >> r.k[0]
    assert at_zero == 0


@given(st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_the_reach_is_what_codes_can_do(zero: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-128, 128, (3, 4)).astype(np.int8)
    least, most = accumulator_reach(rows, Codes(zero, 0, 15))
    corners = np.stack(np.meshgrid(*[[0, 15]] * 4), -1).reshape(-1, 4) - zero
    sums = corners @ rows.astype(np.int64).T
    np.testing.assert_array_equal(sums.min(0), least)
    np.testing.assert_array_equal(sums.max(0), most)


@pytest.mark.parametrize("digits", RADIX)
def test_digits_put_together_are_the_weights(digits: int) -> None:
    rows = np.arange(-128, 128).astype(np.int8)[:, None]
    parts = split_digits(rows, digits)
    assert len(parts) == digits
    np.testing.assert_array_equal(sum(p * float(RADIX[digits]) ** i for i, p in enumerate(parts)), rows)
    if digits > 1:
        assert max(np.abs(p).max() for p in parts) <= RADIX[digits] / 2


def test_digits_are_split_only_where_sums_may_be_inexact() -> None:
    x = Codes(0, 0, 255)
    longest = EXACT_IN_FLOAT32 // (255 * 128)
    for length, wanted in ((longest, 1), (longest + 1, 2), (20000, 4), (80000, None)):
        assert digits_needed(np.full((1, length), -128, np.int8), x) == wanted, length
    assert digits_needed(np.zeros((1, 80000), np.int8), x) == 1
    assert digits_needed(np.full((1, 20000), 85, np.int8), x) == 4


@pytest.mark.parametrize("trailing", [0, 1, 2])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_requantisation_by_channel_in_front_of_other_axes(trailing: int, channels: tuple[int, ...]) -> None:
    """Element by element in whole numbers; one m, or one a channel with axes of pixels after it."""
    rng = np.random.default_rng(0)
    m, b, k = (rng.integers(low, high, channels) for low, high in ((1, 1 << 15), (-99, 99), (3, 9)))
    acc = rng.integers(-4000, 4000, (2, 3, *[5] * trailing))
    found = requantised(acc, Requant(np.asarray(m), np.asarray(b), np.asarray(k), 7, 0, 255), trailing)
    assert found.shape == acc.shape
    for at in np.ndindex(acc.shape):
        c = at[1] if channels else ()
        value = (int(acc[at]) * int(np.asarray(m)[c]) + int(np.asarray(b)[c])) // 2 ** int(
            np.asarray(k)[c]
        ) + 7
        assert found[at] == min(max(value, 0), 255)
