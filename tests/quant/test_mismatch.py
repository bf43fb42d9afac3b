"""Rounding from shifted weights against the error that it stands for."""

import numpy as np
import pytest

from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F32, F64
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.gptq import gptq
from lpcompile.quant.mismatch import retargeted
from tests.support_gram import fitted, gram, gram_of, inputs, losses, weights


def both(columns: int, count: int = 1, samples: int = 300) -> tuple[F64, F64]:
    """Inputs of the float network and of a coarse one, (G, N, K)."""
    x = inputs(columns, count, samples)
    rng = np.random.default_rng(5)
    mixing = np.eye(columns) + 0.1 * rng.standard_normal((columns, columns))
    return x, x @ mixing + 0.1 * rng.standard_normal(x.shape)


def moments(w: F32, x: F64, seen: F64) -> tuple[F64, F64]:
    """E[x^ x^^T] (G, K, K) and E[(w x) x^^T] (R, K)."""
    y = w.astype(np.float64).reshape(len(x), -1, w.shape[1]) @ x.transpose(0, 2, 1)
    return gram_of(seen), np.asarray(y @ seen / x.shape[1]).reshape(w.shape)


def output_errors(w: F32, rounded: F32, x: F64, seen: F64) -> F64:
    """(R,) E|w x - w^ x^|^2 for equal runs of rows."""
    rows = len(w) // len(x)
    y = np.einsum("gnk,grk->grn", x, w.reshape(len(x), rows, -1))
    found = np.einsum("gnk,grk->grn", seen, rounded.reshape(len(x), rows, -1))
    return np.asarray(((y - found) ** 2).mean(axis=2).reshape(-1))


@pytest.mark.parametrize("count", [1, 3])
def test_losses_differ_by_a_constant(count: int) -> None:
    """The loss of codes from the shifted weights is the error of the output, less what no codes change."""
    x, seen = both(10, count)
    w = weights(6, 10)
    h, cross = moments(w, x, seen)
    target = retargeted(w, h, cross, ridge=0)
    rest = output_errors(w, target, x, seen)
    for name in ("int4", "nf4", "int8"):
        tensor = fitted(w, name)
        assert np.allclose(
            output_errors(w, tensor.dequantize(), x, seen), losses(target, tensor, h) + rest, rtol=1e-4
        )


def test_least_squares() -> None:
    x, seen = both(10)
    w = weights(6, 10)
    expected, *_ = np.linalg.lstsq(seen[0], x[0] @ w.T.astype(np.float64), rcond=None)
    assert np.allclose(retargeted(w, *moments(w, x, seen), ridge=0), expected.T, rtol=1e-4, atol=1e-5)


def test_the_ridge_is_exact() -> None:
    x, seen = both(10)
    w = weights(6, 10)
    h, cross = moments(w, x, seen)
    ridge = 0.3 * np.trace(h[0]) / 10 * np.eye(10)
    expected = (cross + w @ ridge) @ np.linalg.inv(h[0] + ridge)
    assert np.allclose(retargeted(w, h, cross, ridge=0.3), expected, rtol=1e-5, atol=1e-6)


def test_equal_inputs_leave_the_weights_alone() -> None:
    w, x = weights(6, 10), inputs(10, 2, 300)
    assert np.allclose(retargeted(w, *moments(w, x, x)), w, rtol=1e-6, atol=1e-7)


def test_a_large_ridge_leaves_the_weights_nearly_alone() -> None:
    w = weights(6, 10)
    assert np.allclose(retargeted(w, *moments(w, *both(10)), ridge=1e9), w, atol=1e-6)


def test_rounding_from_shifted_weights_gives_less_output_error() -> None:
    x, seen = both(24)
    w = weights(30, 24)
    h, cross = moments(w, x, seen)
    tensor = fitted(w, "fixp4")
    target = retargeted(w, h, cross)
    errors = [
        output_errors(w, sweep(rows, gptq(rows, tensor, h), h).dequantize(), x, seen).sum()
        for rows in (w, target)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_rows_of_some_matrices() -> None:
    w, (x, seen) = weights(12, 10), both(10, 4)
    h, cross = moments(w, x, seen)
    some = np.array([7, 3, 0, 8, 6])
    assert np.allclose(
        retargeted(w[some], h, cross[some], some // 3), retargeted(w, h, cross)[some], rtol=1e-5
    )


def test_inputs_that_are_zero_now_keep_their_weights() -> None:
    x, seen = both(10)
    seen[:, :, [2, 5]] = 0
    w = weights(6, 10)
    for ridge in (0.0, 0.01):
        found = retargeted(w, *moments(w, x, seen), ridge=ridge)
        assert np.array_equal(found[:, [2, 5]], w[:, [2, 5]])
        assert (found[:, [0, 1, 3]] != w[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_one_sample(ridge: float) -> None:
    x, seen = both(10, samples=1)
    w = weights(6, 10)
    found = retargeted(w, *moments(w, x, seen), ridge=ridge)
    assert np.isfinite(found).all()
    assert output_errors(w, found, x, seen).sum() < 0.1 * output_errors(w, w, x, seen).sum()


def test_cross_moments_that_are_none() -> None:
    w, h = weights(6, 10), gram(10)
    with pytest.raises(CalibrationError, match="cross moments"):
        retargeted(w, h, np.full_like(w, np.inf))
    with pytest.raises(CalibrationError, match="cross moments"):
        retargeted(w, h, h[0])
