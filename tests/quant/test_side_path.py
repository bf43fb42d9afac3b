"""Side paths in 8 bits: exact sums, little loss, the merged image, what stands in a quantised tensor."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64, I8
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.low_rank import low_rank, weighted_loss
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import LARGEST, SidePath, merged_image, side_path

ONE = np.ones((), np.float32)


def factors(outputs: int, rank: int, inputs: int, seed: int = 0, spread: float = 1.0) -> tuple[F64, F64]:
    rng = np.random.default_rng(seed)
    sizes = np.exp(-spread * np.arange(rank))[:, None]
    return rng.standard_normal((outputs, rank)), sizes * rng.standard_normal((rank, inputs))


def image(outputs: int, inputs: int, seed: int = 0) -> tuple[I8, F32]:
    rng = np.random.default_rng(seed)
    w8 = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    return w8, rng.uniform(0.01, 0.1, outputs).astype(np.float32)


def path_beside(b: F64, a: F64, w8: I8, scale: F32) -> SidePath:
    path = side_path(b, a, w8, scale)
    assert path is not None
    return path


def tensor(shape: tuple[int, int] = (10, 24), seed: int = 0) -> QuantizedTensor:
    w = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return fit(
        w, resolve("fixp4"), granularity="group", group_size=8, rule="absmax", scale_format="ufloat8_e4m4"
    )


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 60), st.integers(0, 99), st.floats(0, 3))
def test_sums_are_exact_in_float32(outputs: int, rank: int, inputs: int, seed: int, spread: float) -> None:
    w8, scale = image(outputs, inputs, seed)
    path = path_beside(*factors(outputs, rank, inputs, seed, spread), w8, scale)
    power = round(-np.log2(float(path.unit)))
    whole = (path.b.astype(np.int64) * path.multipliers) @ path.a.astype(np.int64)
    whole += w8.astype(np.int64) << power
    assert np.abs(whole).max() < 1 << 24
    found = w8.astype(np.float32) + path.product()
    np.testing.assert_array_equal(found.astype(np.float64) * 2.0**power, whole)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2])
def test_eight_bits_change_little(spread: float, size: float) -> None:
    """Of the path itself, or of the coarsest step that an image of 8 bits can have."""
    w8, scale = image(64, 96)
    b, a = factors(64, 8, 96, spread=spread)
    left, right = path_beside(size * b, a, w8, scale).factors()
    lost = np.linalg.norm(scale[:, None] * (left @ right) - size * b @ a)
    assert lost < 0.02 * size * np.linalg.norm(b @ a) + 0.01 * np.linalg.norm(
        np.broadcast_to(scale[:, None], (64, 96))
    )


def test_large_ranks_stay_exact() -> None:
    w8, scale = np.zeros((3, 5), np.int8), np.ones(3, np.float32)
    left, right = path_beside(np.ones((3, 300)), np.ones((300, 5)), w8, scale).factors()
    np.testing.assert_allclose(left @ right, 300, rtol=0.01)
    with pytest.raises(FormatError, match="rank 513"):
        side_path(np.ones((3, 513)), np.ones((513, 5)), w8, scale)


@pytest.mark.parametrize("inputs", [16, 600, 4096])
def test_rows_of_a_path_apart_use_the_levels_that_exact_sums_leave(inputs: int) -> None:
    """Codes of 255 times a row of A stay below 2^24, half a step of rounding counted for each of its numbers."""
    w8, scale = image(3, inputs)
    path = side_path(np.ones((3, 1)), np.ones((1, inputs)), w8, scale, apart=True)
    assert path is not None
    most = ((1 << 24) - 1) // 255
    assert int(path.a.max()) == min(LARGEST, int((most - inputs / 2) // inputs))
    assert int(np.abs(path.a.astype(np.int64)).sum()) <= most


def test_zero_factors_are_no_path_and_zero_ranks_are_left_out() -> None:
    main = image(6, 7)
    b, a = factors(6, 3, 7)
    assert side_path(b * 0, a, *main) is None
    a[1] = 0
    assert path_beside(b, a, *main).rank == 2
    with pytest.raises(FormatError, match="NaN or infinity"):
        side_path(b * np.inf, a, *main)


def test_noise_of_float64_in_rows_of_tiny_scales_does_not_count() -> None:
    w8, scale = image(6, 7)
    b, a = factors(6, 2, 7)
    b[0], scale[0] = 1e-17, 1e-30
    path = path_beside(b, a, w8, scale)
    np.testing.assert_array_equal(path.b[0], 0)
    assert np.abs(path.b[1:]).max() > 100


def test_inexact_and_misshapen_factors_are_refused() -> None:
    full, steps = np.full((2, 9), 127, np.int8), np.ones(2, np.uint8)
    path = SidePath(full, full.T.copy(), np.full(9, 255, np.uint8), ONE, steps, ONE)
    assert not path.is_exact(0)
    with pytest.raises(FormatError, match="for 3 multipliers"):
        replace(path, multipliers=np.ones(3, np.uint8))
    with pytest.raises(FormatError, match=r"a power of two, not 0\.75"):
        replace(path, unit=np.array(0.75, np.float32))
    for bad in ({"steps": np.array([1, 0], np.uint8)}, {"step_unit": 0 * ONE}):
        with pytest.raises(FormatError, match="steps of a merged image are positive"):
            replace(path, **bad)


def test_the_merged_image_fits_int8_and_is_nearest() -> None:
    main, (b, a) = tensor(), factors(10, 3, 24)
    before, scale = main.int8_image()
    path = path_beside(b, a, before, scale)
    w8, merged_scale = merged_image(before, scale, path)
    real = scale[:, None] * (before + path.product().astype(np.float64))
    assert 126 <= np.abs(w8).max() <= LARGEST
    assert (np.abs(w8).max(axis=1) > 0.95 * LARGEST).all()
    off = np.abs(w8.astype(np.float64) * merged_scale[:, None] - real)
    assert (off.max(axis=1) <= 0.5001 * merged_scale).all()


def test_codes_beyond_the_width_of_the_image_are_clipped() -> None:
    path = path_beside(np.ones((1, 1)), np.ones((1, 2)), np.array([[4, -4]], np.int8), np.ones(1, np.float32))
    w8, _ = merged_image(np.array([[7, -8]], np.int8), np.ones(1, np.float32), path)
    np.testing.assert_array_equal(w8, [[127, -128]])


def test_rows_of_zeros_have_a_scale() -> None:
    main = np.zeros((2, 2), np.int8), np.ones(2, np.float32)
    path = path_beside(np.array([[0.0], [1.0]]), np.array([[1.0, 2.0]]), *main)
    w8, scale = merged_image(*main, path)
    np.testing.assert_array_equal(w8[0], 0)
    assert (scale > 0).all()


def test_a_tensor_with_a_path_is_what_image_and_scale_say() -> None:
    main = tensor()
    path = path_beside(*factors(10, 3, 24), *main.int8_image())
    both = replace(main, side=path)
    w8, scale = both.int8_image()
    np.testing.assert_array_equal(both.dequantize(), (w8 * scale[:, None]).astype(np.float32))
    assert both.nbytes == main.nbytes + path.nbytes == main.nbytes + 3 * (10 + 24) + 3 + 4 + 10 + 4
    assert both.total_bits == main.total_bits + 8 * path.nbytes
    assert both.digest() != main.digest()
    assert both.main == main
    with pytest.raises(FormatError, match="does not survive"):
        both.reshape((10, 3, 8))


def test_a_tensor_without_an_image_holds_no_path() -> None:
    path = path_beside(*factors(10, 3, 24), *tensor().int8_image())
    w = np.random.default_rng(0).standard_normal((10, 24)).astype(np.float32)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(fit(w, resolve("float8_e4m3fn")), side=path)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(fit(w, resolve("int8")), side=path)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(tensor((11, 24)), side=path)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(tensor(), side=replace(path, unit=2 * ONE))


def test_merging_costs_no_more_than_8_bit_weights_do() -> None:
    w = np.random.default_rng(3).standard_normal((48, 96)).astype(np.float32)
    main = fit(w, resolve("fixp4"), rule="absmax")
    b, a = low_rank(w - main.dequantize(), 8)
    ideal = weighted_loss(w - main.dequantize() - b @ a)
    merged = weighted_loss(w - replace(main, side=side_path(b, a, *main.int8_image())).dequantize())
    assert ideal < merged < 1.01 * ideal
    assert ideal < 0.7 * weighted_loss(w - main.dequantize())


def test_rows_of_small_reach_keep_a_small_step() -> None:
    """One row reaches 200 times as far as the other: the merged image of both is fine."""
    rng = np.random.default_rng(8)
    b, a = rng.standard_normal((2, 3)) * [[1.0], [0.005]], rng.standard_normal((3, 40))
    scale = np.array([0.01, 0.00005], np.float32)
    w8 = rng.integers(-7, 8, (2, 40)).astype(np.int8)
    path = side_path(b, a, w8, scale)
    assert path is not None
    image, _ = merged_image(w8, scale, path)
    assert np.abs(image.astype(int)).max(axis=1).min() >= 60
    only = side_path(b * [[40], [0]], a, w8, scale)
    assert only is not None
    assert only.steps[1] == 1  # nothing is added to the second row, which reaches 7
    assert only.steps[0] == 255
