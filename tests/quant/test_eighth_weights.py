"""Weights of 8 bits for FP8 arithmetic: grids and scales by `ml_dtypes`, the loop once more in plain numbers."""

import ml_dtypes
import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.quant.eighth_weights import eighth_weights
from lpcompile.quant.gram_factor import factor

RNG = np.random.default_rng(5)
ROWS = (RNG.normal(size=(12, 9)) * 2.0 ** RNG.integers(-20, 9, (12, 1))).astype(np.float32)


def to_eighths(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64))


def grams(count: int, inputs: int) -> np.ndarray:
    """Of neighbours that are much alike."""
    x = RNG.normal(size=(count, 400, 1)) + 0.2 * RNG.normal(size=(count, 400, inputs))
    return np.asarray(x.transpose(0, 2, 1) @ x / 400)


def test_each_row_has_a_power_of_two_and_the_nearest_numbers() -> None:
    tensor = eighth_weights(ROWS)
    scales = np.asarray(tensor.scales, np.float64)
    np.testing.assert_array_equal(np.log2(scales), np.rint(np.log2(scales)))
    largest = np.abs(ROWS).max(1) / scales
    assert (largest <= 224).all()
    assert (largest > 112).all()
    np.testing.assert_array_equal(tensor.dequantize(), to_eighths(ROWS / scales[:, None]) * scales[:, None])
    assert np.abs(tensor.dequantize() / ROWS - 1).max() < 1 / 16 + 1e-6
    assert tensor.total_bits == 8 * ROWS.size + 16 * len(ROWS)


@pytest.mark.parametrize("matrices", [1, 12])
def test_the_loop_is_that_of_its_definition(matrices: int) -> None:
    h = grams(matrices, 9)
    factors = factor(h, 0.01, "natural")
    tensor = eighth_weights(ROWS, factors=factors)
    scales = np.asarray(tensor.scales, np.float64)
    for i, row in enumerate(ROWS):
        gram = h[i * matrices // len(ROWS)]
        damped = gram + 0.01 * np.diag(gram).mean() * np.eye(9)
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # H^-1 = U^T U
        v = row.astype(np.float64) / scales[i]
        for j in range(9):
            q = to_eighths(v[j : j + 1])[0]
            v[j + 1 :] -= (v[j] - q) / upper[j, j] * upper[j, j + 1 :]
            assert tensor.dequantize()[i, j] == pytest.approx(
                q * scales[i], abs=scales[i] * 2.0**-3 * max(abs(q), 1)
            )
    errors = [np.asarray(t.dequantize(), np.float64) - ROWS for t in (tensor, eighth_weights(ROWS))]
    each = np.repeat(h, len(ROWS) // matrices, axis=0)
    losses = [np.einsum("rk,rkl,rl->r", e, each, e) / (ROWS.astype(np.float64) ** 2).sum(1) for e in errors]
    assert losses[0].mean() < 0.5 * losses[1].mean(), "errors cancel where inputs are alike"


def test_rows_of_zeros_and_weights_that_are_no_numbers() -> None:
    assert not eighth_weights(np.zeros((2, 9), np.float32)).dequantize().any()
    with pytest.raises(FormatError, match="NaN or infinity"):
        eighth_weights(np.full((1, 3), np.inf, np.float32))
