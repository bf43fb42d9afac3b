"""Both stages of DPQ against the notes' vectors and invariants, with the conversions of `ml_dtypes` as the oracle."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.quant.dual_precision import (
    FULL_SCALES,
    SMALLEST,
    DualPrecisionTensor,
    Stages,
    bfloat16,
    cast8,
    first_scale,
    free_scale,
    grouped,
    power_of_two_above,
    protected_limit,
    second_scales,
)

EXAMPLE = np.array([[0.5, -0.25, 0.1, -0.03], [0.02, 0.015, -0.04, 0]], np.float32)
EIGHTHS = tuple(FULL_SCALES)


def oracle8(x: NDArray[np.floating] | np.float32) -> F32:
    return np.asarray(np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def weights(rows: int, columns: int, seed: int = 0, spread: float = 0.05) -> F32:
    return (np.random.default_rng([seed, 3]).standard_normal((rows, columns)) * spread).astype(np.float32)


def test_cast_rounds_half_to_even_and_saturates() -> None:  # V0
    given = [17, 18, 19, 21, 34, 34.1, 119.4667, 225, 232, 0.0146, 0.002, 2**-10, 464, 465, 1e30, -1e30]
    wanted = [16, 18, 20, 20, 32, 36, 120, 224, 224, 0.013671875, 2**-9, 0, 448, 448, 448, -448]
    np.testing.assert_array_equal(cast8(np.array(given, np.float32)), np.array(wanted, np.float32))


def test_cast_is_that_of_ml_dtypes() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(200_000) * np.exp(5 * rng.standard_normal(200_000))).astype(np.float32)
    np.testing.assert_array_equal(cast8(x), oracle8(x))


@pytest.mark.parametrize(("full", "limit"), [(240, 224), (448, 416)])
def test_protected_range(full: float, limit: float) -> None:  # E1
    assert protected_limit(full) == limit
    assert 16 / 15 * limit <= full


def test_both_stages_by_hand() -> None:  # V1, with scales as they are before they are rounded to bfloat16
    stages = Stages.of(EXAMPLE, 4)
    assert stages.s1 == 2.0**-8
    np.testing.assert_array_equal(
        stages.units, np.array([[128, -64, 25.6, -7.68], [5.12, 3.84, -10.24, 0]], np.float32)
    )
    eighth = [[128, -64, 26, -7.5], [5, 3.75, -10, 0]]
    np.testing.assert_array_equal(cast8(stages.units), np.array(eighth, np.float32))
    exact = np.array([[2 * 128 / 15], [2 * 10 / 15]], np.float32)
    np.testing.assert_allclose(exact.ravel(), [17.066667, 1.333333], rtol=1e-6)
    np.testing.assert_array_equal(stages.scales, bfloat16(exact))
    found = replace(stages, scales=exact).nearest()
    np.testing.assert_array_equal(found.integers() + 8, [[15, 4, 10, 8], [12, 11, 0, 8]])
    np.testing.assert_array_equal(
        found.eighths(), np.array([[120, -72, 36, 0], [5.5, 4, -11, 0]], np.float32)
    )
    wanted = [[0.46875, -0.28125, 0.140625, 0], [0.021484375, 0.015625, -0.04296875, 0]]
    np.testing.assert_array_equal(found.dequantize(), np.array(wanted, np.float32))


def test_one_sided_group_is_not_clipped() -> None:  # V4
    units = np.array([[0, 3, 9, 15]], np.float32)
    scales = second_scales(units, 4, 224)
    assert scales.item() == 2
    found = np.clip(np.rint(units / scales), -8, 7) * scales
    np.testing.assert_array_equal(found, [[0, 4, 8, 14]])


@pytest.mark.parametrize(
    ("value", "scale"), [(0.003, 2**-8), (0.02, 2**-4), (0.3, 1), (1, 1), (3, 16), (20, 16)]
)
def test_free_scales(value: float, scale: float) -> None:  # V5
    assert free_scale(value) == scale
    assert first_scale(np.array([[value * 224]], np.float32), 224, hardware=True) == scale


def test_why_the_eight_bits_are_a_float() -> None:  # V6
    x = np.random.default_rng(6).standard_normal(200_000)
    rare = x * np.where(np.arange(200_000) % 1000 == 0, 30, 1)

    def sqnr(signal: np.ndarray, found: np.ndarray, part: np.ndarray) -> float:
        return float(10 * np.log10(np.sum(signal[part] ** 2) / np.sum((signal - found)[part] ** 2)))

    def eighth(v: np.ndarray) -> np.ndarray:
        unit = power_of_two_above(np.abs(v).max() / 448, 0)
        return cast8((v / unit).astype(np.float32)) * unit

    def int8(v: np.ndarray) -> np.ndarray:
        unit = np.abs(v).max() / 127
        return np.asarray(np.rint(v / unit) * unit)

    bulk = np.arange(200_000) % 1000 != 0
    assert sqnr(x, eighth(x), bulk) == pytest.approx(31.54, abs=0.1)
    assert sqnr(rare, eighth(rare), bulk) == pytest.approx(31.54, abs=0.1)
    assert sqnr(x, int8(x), bulk) == pytest.approx(39.4, abs=0.8)
    assert sqnr(rare, int8(rare), bulk) < 18


def test_small_integers_are_exact() -> None:  # I1
    codes = np.arange(-8, 17, dtype=np.float32)
    np.testing.assert_array_equal(oracle8(codes), codes)
    assert oracle8(np.float32(17)) != 17


@pytest.mark.parametrize(("full", "top"), [(240, 4), (448, 5)])
def test_powers_of_two_expand_exactly(full: float, top: int) -> None:  # I2
    codes = np.arange(-8, 8)
    for exponent in range(-9, top + 1):
        values = (codes * 2.0**exponent).astype(np.float32)
        np.testing.assert_array_equal(cast8(values), values)
        assert np.abs(values).max() <= full


def test_other_scales_err_by_a_seventeenth_at_most() -> None:  # I3
    scales = np.exp(np.random.default_rng(3).uniform(np.log(2**-6), np.log(29), 20_000)).astype(np.float32)
    exact = scales[:, None] * np.delete(np.arange(-8, 8), 8).astype(np.float32)
    error = np.abs(cast8(exact) / exact - 1).max()
    assert 0.058 < error <= 1 / 17


@pytest.mark.parametrize("eighth", EIGHTHS)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_leaves_the_full_scale(eighth: str, seed: int) -> None:  # I4, I5
    w = weights(8, 50, seed, spread=float(np.exp(seed - 4)))
    w[0, :8] = -np.abs(w).max() * 2
    stages = Stages.of(w, 16, eighth)
    full, limit = FULL_SCALES[eighth], protected_limit(FULL_SCALES[eighth])
    assert limit / 2 < np.abs(w).max() / stages.s1 <= limit
    all_lowest = stages.tensor(np.full(w.shape, -8))
    assert np.abs(stages.scales * -8).max() <= full  # no clip is active
    assert np.abs(all_lowest.eighths()).max() <= full


def test_lowest_code_of_the_largest_group() -> None:  # I4
    units = np.full((1, 4), -224, np.float32)
    assert float(np.float32(2 * 224 / 15) * -8) == pytest.approx(-238.93, abs=0.01)
    assert cast8(second_scales(units, 4, 224) * -8).item() == -240


def test_codes_give_the_same_weights_everywhere() -> None:  # I6, here by a plain loop over ml_dtypes
    w = weights(6, 37)
    found = Stages.of(w, 8).nearest()
    for (r, k), code in np.ndenumerate(found.codes):
        integer = int(code) - 16 * (code > 7)
        product = np.float32(integer) * found.group_scales[r, k // 8]
        assert found.eighths()[r, k] == np.float32(ml_dtypes.float8_e4m3fn(product))
        assert found.dequantize()[r, k] == found.eighths()[r, k] * np.float32(found.first_scale)


def test_twice_the_weights_have_the_same_codes() -> None:  # I7
    w = weights(6, 64)
    a, b = Stages.of(w, 16), Stages.of(2 * w, 16)
    assert b.s1 == 2 * a.s1
    np.testing.assert_array_equal(a.scales, b.scales)
    np.testing.assert_array_equal(a.nearest().codes, b.nearest().codes)


def test_rounding_twice_is_another_thing() -> None:  # I8, the second half
    stages = Stages.of(weights(4, 64, 5), 64)
    moved = np.count_nonzero(stages.nearest().codes != stages.nearest_twice().codes)
    assert 0 < moved < 40


def test_full_scales_give_the_same_codes() -> None:  # I13
    for seed in range(200):
        w = weights(4, 32, seed)
        narrow, wide = (Stages.of(w, 16, e) for e in EIGHTHS)
        assert wide.s1 in (narrow.s1, narrow.s1 / 2)
        np.testing.assert_array_equal(narrow.nearest().codes, wide.nearest().codes)


def test_sizes() -> None:  # E9, I12
    found = Stages.of(weights(6, 128), 32).nearest()
    assert found.total_bits == 4 * 6 * 128 + 16 * 6 * 4 + 16
    assert found.bits_per_element == pytest.approx(4 + 16 / 32 + 16 / (6 * 128))
    assert found.nbytes == len(found.packed()) + 2 * 6 * 4 + 2
    assert found.group_scales.shape == (6, 4)


def test_codes_cannot_be_derived_from_expanded_weights() -> None:  # B6
    scale = np.float32(0.9 * 2**-9)
    codes = np.arange(-8, 8)
    again = np.rint(cast8(codes.astype(np.float32) * scale) / scale)
    assert (again != codes).any()


def test_empty_groups_and_small_numbers() -> None:
    w = np.zeros((3, 8), np.float32)
    w[0, :4] = [0.5, 0.25, -0.5, 0.1]
    w[2, 4:] = 1e-30
    stages = Stages.of(w, 4)
    assert np.isfinite(stages.scales).all()
    assert (stages.scales > 0).all()
    assert stages.scales[1, 0] == SMALLEST
    np.testing.assert_array_equal(stages.nearest().dequantize()[1:], 0)
    nothing = Stages.of(np.zeros((2, 4), np.float32), 4)
    np.testing.assert_array_equal(nothing.nearest().codes, 0)
    tiny = Stages.of(np.full((2, 4), 1e-38, np.float32), 4).nearest()
    assert np.isfinite(tiny.dequantize()).all()


def test_last_group_may_be_short() -> None:
    w = weights(3, 10)
    assert Stages.of(w, 4).scales.shape == (3, 3)
    assert grouped(w, 4).shape == (3, 3, 4)
    np.testing.assert_array_equal(
        Stages.of(w[:, 8:], 4).units * 1, grouped(w, 4)[:, 2, :2] / first_scale(w[:, 8:], 224)
    )


def test_what_is_no_such_tensor_is_refused() -> None:
    w = weights(2, 4)
    with pytest.raises(FormatError, match="NaN"):
        Stages.of(np.where(w == w[0, 0], np.nan, w).astype(np.float32), 4)
    with pytest.raises(FormatError, match="float8_e5m2"):
        Stages.of(w, 4, "float8_e5m2")
    with pytest.raises(FormatError, match=r"0\.3"):
        DualPrecisionTensor.of(np.zeros((2, 4), np.int8), np.ones((2, 1), np.float32), 4, 0.3, EIGHTHS[0])
    tensor = Stages.of(w, 4).nearest()
    assert not tensor.has_int8_image
    with pytest.raises(FormatError, match="no int8 image"):
        tensor.int8_image()


def test_digest_tells_scales_and_formats_apart() -> None:
    tensor = Stages.of(weights(2, 8), 4).nearest()
    others = (replace(tensor, first_scale=2 * tensor.first_scale), replace(tensor, eighth=EIGHTHS[1]))
    assert len({t.digest() for t in (tensor, *others)}) == 3
    assert tensor == Stages.of(weights(2, 8), 4).nearest()
