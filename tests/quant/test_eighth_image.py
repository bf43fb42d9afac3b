"""The int8 image of INT4 codes that are read as FP8, and the codes as blocks, against `ml_dtypes`."""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.quant.dual_precision import DualPrecisionTensor, Stages
from lpcompile.quant.eighth_image import EighthImage, as_eighths, code_blocks, eighth_image

Array = NDArray[np.floating]


def tensor(seed: int = 0, spread: float = 1.0, size: int = 8) -> DualPrecisionTensor:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, 37)) * np.exp(spread * rng.normal(size=(6, 37)))
    return Stages.of(rows.astype(np.float32), size).nearest()


def expanded(held: DualPrecisionTensor, *, cast: bool = True) -> Array:
    """s2 q, and what E4M3 makes of it."""
    integers = (held.codes.astype(np.int16) ^ 8) - 8
    products = (integers * np.repeat(held.group_scales, 8, axis=1)[:, :37]).astype(np.float32)
    return (
        products.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) if cast else products.astype(np.float64)
    )


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_image_is_the_nearest_integers_under_its_steps(spread: float) -> None:
    held = tensor(spread=spread)
    image = eighth_image(held)
    w8, scale = image.int8_image()
    ratios = expanded(held) / image.steps[:, None].astype(np.float64)
    inside = np.abs(ratios) <= 127
    assert np.abs(w8 - ratios)[inside].max() <= 0.5
    np.testing.assert_array_equal(np.abs(w8[~inside].astype(np.int16)) >= 127, True)
    np.testing.assert_array_equal(scale, image.steps * np.float32(held.first_scale))
    np.testing.assert_array_equal(image.dequantize(), w8 * scale[:, None])
    np.testing.assert_array_equal(image.steps, image.steps.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_steps_lose_no_more_than_the_obvious_ones(seed: int) -> None:
    held = tensor(seed=seed)
    image = eighth_image(held)
    numbers = expanded(held)

    def losses(steps: Array) -> Array:
        column = steps.astype(np.float64)[:, None]
        errors = np.clip(np.rint(numbers / column), -128, 127) * column - numbers
        return np.asarray(np.square(errors).sum(axis=1))

    found = losses(image.steps)
    widest = np.abs(numbers).max(axis=1) / 127
    near = widest.astype(ml_dtypes.bfloat16).astype(np.float64)
    fine = np.where(near < widest, near * (1 + 2.0**-7), near).astype(ml_dtypes.bfloat16).astype(np.float64)
    power = np.exp2(np.ceil(np.log2(widest)))
    assert (found <= losses(fine)).all()
    assert (found <= losses(power)).all()
    assert (found < losses(fine)).any()
    assert (losses(power) < losses(fine)).any()


def test_powers_of_two_hold_rows_exactly_that_they_can_hold() -> None:
    """Multiples of 8 up to 120: a step of 120 / 127 would round them all."""
    rows = np.array([[120, -64, 8, 16, 0, -8, 32, -120]], np.float32)
    scales = np.array([[8.0, 16.0]], np.float32)
    codes = np.array([[7, -8, 1, 2, 0, -1, 2, -7]])
    held = DualPrecisionTensor.of(codes, scales, 4, 1.0, "float8_e4m3fn_240")
    rows = held.dequantize()
    np.testing.assert_array_equal(eighth_image(held).dequantize(), rows)
    assert eighth_image(held).steps[0] == 1.0


def test_importance_moves_the_steps_to_what_counts() -> None:
    held = tensor(seed=1, spread=2.0)
    small = np.abs(expanded(held)) < np.abs(expanded(held)).max(axis=1, keepdims=True) / 60
    plain = eighth_image(held)
    wise = eighth_image(held, np.where(small, 1e4, 1.0))

    def error(image: EighthImage) -> float:
        values = image.dequantize() - held.dequantize()
        return float(np.square(values[small], dtype=np.float64).sum())

    assert error(wise) < 0.8 * error(plain)


def test_scales_are_no_smaller_than_a_bias_needs() -> None:
    held = tensor()
    free = eighth_image(held).int8_image()[1]
    least = free * np.float32(3)
    found = eighth_image(held, least=least).int8_image()[1]
    assert (found >= least).all()
    assert (found <= least * 1.01).all()


def test_rows_of_zeros() -> None:
    held = Stages.of(np.zeros((3, 16), np.float32), 8).nearest()
    assert not eighth_image(held).dequantize().any()


def test_blocks_are_codes_times_scales_without_fp8() -> None:
    held = tensor()
    np.testing.assert_array_equal(
        code_blocks(held).dequantize(), (expanded(held, cast=False) * held.first_scale).astype(np.float32)
    )
    assert not code_blocks(held).has_int8_image


def test_kinds_differ_and_go_back() -> None:
    held = tensor()
    image, blocks = eighth_image(held), code_blocks(held)
    assert len({held.digest(), image.digest(), blocks.digest()}) == 3
    for other in (image, blocks):
        back = as_eighths(other)
        assert type(back) is DualPrecisionTensor
        assert back == held
    assert image.nbytes == held.nbytes + 2 * len(held.codes)
    assert image.total_bits == held.total_bits + 16 * len(held.codes)
    assert blocks.nbytes == held.nbytes


@pytest.mark.parametrize("steps", [np.ones(5), np.zeros(6), np.full(6, 1.001)])
def test_impossible_steps(steps: Array) -> None:
    held = tensor()
    with pytest.raises(FormatError, match="steps"):
        EighthImage(
            held.codes,
            held.format,
            held.granularity,
            held.scales,
            scale_bits=16,
            first_scale=held.first_scale,
            eighth=held.eighth,
            steps=steps.astype(np.float32),
        )
