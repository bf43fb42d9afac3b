"""Side paths in 8 bits: exact sums, little loss, the merged image, what stands in a quantised tensor."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.low_rank import low_rank, weighted_loss
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import LARGEST, SidePath, merged_image, side_path


def factors(outputs: int, rank: int, inputs: int, seed: int = 0, spread: float = 1.0) -> tuple[F64, F64]:
    rng = np.random.default_rng(seed)
    sizes = np.exp(-spread * np.arange(rank))[:, None]
    return rng.standard_normal((outputs, rank)), sizes * rng.standard_normal((rank, inputs))


def tensor(shape: tuple[int, int] = (10, 24), seed: int = 0) -> QuantizedTensor:
    w = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return fit(
        w, resolve("fixp4"), granularity="group", group_size=8, rule="absmax", scale_format="ufloat8_e4m4"
    )


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 60), st.integers(0, 99), st.floats(0, 3))
def test_the_sum_is_exact_in_float32(outputs: int, rank: int, inputs: int, seed: int, spread: float) -> None:
    path = side_path(*factors(outputs, rank, inputs, seed, spread))
    assert path is not None
    whole = (path.b.astype(np.int64) * path.multipliers) @ path.a.astype(np.int64)
    assert np.abs(whole).max() < 1 << 24
    np.testing.assert_array_equal(path.product(), whole.astype(np.float32) * path.unit)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_eight_bits_change_little(spread: float) -> None:
    b, a = factors(64, 8, 96, spread=spread)
    path = side_path(b, a)
    assert path is not None
    assert np.linalg.norm(path.product() - b @ a) < 0.012 * np.linalg.norm(b @ a)


def test_large_ranks_stay_exact() -> None:
    b, a = np.ones((3, 300)), np.ones((300, 5))
    path = side_path(b, a)
    assert path is not None
    np.testing.assert_allclose(path.product(), 300, rtol=1e-5)
    with pytest.raises(FormatError, match="rank 513"):
        side_path(np.ones((3, 513)), np.ones((513, 5)))


def test_zero_factors_are_no_path_and_zero_ranks_are_left_out() -> None:
    b, a = factors(6, 3, 7)
    assert side_path(b * 0, a) is None
    a[1] = 0
    path = side_path(b, a)
    assert path is not None
    assert path.rank == 2
    with pytest.raises(FormatError, match="NaN or infinity"):
        side_path(b * np.inf, a)


def test_inexact_and_misshapen_factors_are_refused() -> None:
    full = np.full((2, 9), 127, np.int8)
    with pytest.raises(FormatError, match="too large to be exact"):
        SidePath(full, full.T.copy(), np.full(9, 255, np.uint8), np.array(1, np.float32))
    with pytest.raises(FormatError, match="for 3 multipliers"):
        SidePath(full, full.T.copy(), np.ones(3, np.uint8), np.array(1, np.float32))


def test_the_merged_image_fits_int8_in_every_row_and_is_nearest() -> None:
    main, path = tensor(), side_path(*factors(10, 3, 24))
    assert path is not None
    w8, scale = merged_image(*main.int8_image(), path)
    real = main.dequantize() + path.product()
    np.testing.assert_array_equal(np.abs(w8).max(axis=1), LARGEST)
    assert np.abs(w8 * scale[:, None] - real).max() <= 0.5001 * scale.max()
    assert (np.abs(w8 * scale[:, None] - real).max(axis=1) <= 0.5001 * scale).all()


def test_rows_of_zeros_have_a_scale() -> None:
    path = side_path(np.array([[0.0], [1.0]]), np.array([[1.0, 2.0]]))
    assert path is not None
    w8, scale = merged_image(np.zeros((2, 2), np.int8), np.ones(2, np.float32), path)
    np.testing.assert_array_equal(w8, [[0, 0], [64, 127]])
    assert (scale > 0).all()


def test_a_tensor_with_a_path_is_what_image_and_scale_say() -> None:
    main, path = tensor(), side_path(*factors(10, 3, 24))
    assert path is not None
    both = replace(main, side=path)
    w8, scale = both.int8_image()
    np.testing.assert_array_equal(both.dequantize(), (w8 * scale[:, None]).astype(np.float32))
    assert both.nbytes == main.nbytes + path.nbytes == main.nbytes + 3 * (10 + 24) + 3 + 4
    assert both.total_bits == main.total_bits + 8 * path.nbytes
    assert both.digest() != main.digest()
    assert both.main == main
    with pytest.raises(FormatError, match="does not survive"):
        both.reshape((10, 3, 8))


def test_a_tensor_without_an_image_holds_no_path() -> None:
    path = side_path(*factors(10, 3, 24))
    w = np.random.default_rng(0).standard_normal((10, 24)).astype(np.float32)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(fit(w, resolve("float8_e4m3fn")), side=path)
    with pytest.raises(FormatError, match="cannot hold this side path"):
        replace(tensor((11, 24)), side=path)


def test_i6_a_path_repairs_what_the_factors_promise() -> None:
    """Merging costs no more than 8-bit weights do."""
    w = np.random.default_rng(3).standard_normal((48, 96)).astype(np.float32)
    main = fit(w, resolve("fixp4"), rule="absmax")
    b, a = low_rank(w - main.dequantize(), 8)
    ideal = weighted_loss(w - main.dequantize() - b @ a)
    merged = weighted_loss(w - replace(main, side=side_path(b, a)).dequantize())
    assert ideal < merged < 1.01 * ideal
    assert ideal < 0.7 * weighted_loss(w - main.dequantize())
