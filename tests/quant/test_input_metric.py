"""Metrics of rounding errors against float64, a plain loop of GPTQ's feedback, and inputs sample by sample."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import expected_errors, gptq_factored
from lpcompile.quant.gram_factor import SOLVED_AT_ONCE, conditional_variances, factor
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights


def moments(x: F64) -> tuple[F32, F64]:
    """(G, N, K) inputs -> E[x x^T] and E[x]."""
    return gram_of(x).astype(np.float32), x.mean(axis=1)


def metric(x: F64, *, centred: bool = True, step: float = 0.0) -> InputMetric:
    return InputMetric.of(*moments(x), centred=centred, step=step)


@pytest.mark.parametrize("step", [0.0, 0.3])
def test_centred_moments_are_the_covariance_and_the_noise_of_the_quantiser(step: float) -> None:
    x = inputs(7, count=3)
    found = metric(x, step=step)
    for g in range(3):
        wanted = np.cov(x[g].T, bias=True) + step**2 / 12 * np.eye(7)
        np.testing.assert_allclose(found.matrix[g], wanted, rtol=1e-5, atol=1e-6 * wanted.max())
    assert found.centred
    np.testing.assert_array_equal(found.mean, x.mean(axis=1))


def test_without_a_bias_the_second_moments_stay() -> None:
    x = inputs(7, count=2)
    plain = metric(x, centred=False)
    np.testing.assert_array_equal(plain.matrix, moments(x)[0])
    noisy = metric(x, centred=False, step=0.6).matrix
    np.testing.assert_allclose(noisy, gram_of(x) + 0.03 * np.eye(7), rtol=1e-6)


def test_the_noise_of_the_quantiser_is_that_of_rounded_inputs() -> None:
    x, step = inputs(6, samples=20_000), 0.05
    rounded = np.round(x / step) * step
    np.testing.assert_allclose(metric(x, step=step).matrix, metric(rounded).matrix, rtol=0.02, atol=2e-3)


def test_inputs_that_never_change_have_no_negative_variance() -> None:
    x = np.full((1, 3, 4), 1 / 3) * np.array([1e4, 1.0, 3e-3, 0.0])
    found = metric(x).matrix
    assert (np.diagonal(found[0]) >= 0).all()
    assert np.diagonal(found[0]).max() < 1e-6 * 1e8
    tensor = fitted(weights(5, 4), "fixp4")
    assert metric(x).rounded(weights(5, 4), tensor).codes.shape == (5, 4)


@pytest.mark.parametrize("count", [1, 4])
def test_importance_lies_between_second_moments_and_what_later_inputs_leave(count: int) -> None:
    found = metric(inputs(9, count=count))
    variances = conditional_variances(found.matrix, found.damping)
    np.testing.assert_allclose(found.variances, variances.mean(axis=0), rtol=1e-5)
    between = np.sqrt(variances * np.diagonal(found.matrix, axis1=1, axis2=2))
    expected = (between / between.mean(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found.importance, expected, rtol=1e-5)
    assert found.importance.mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(found.sizes, [np.mean(found.matrix[:, k, k]) for k in range(9)], rtol=1e-6)
    assert (found.variances <= found.sizes + found.damping * found.sizes.mean() * 1.01).all()


def test_a_group_of_large_inputs_does_not_drown_the_others() -> None:
    x = inputs(5, count=3)
    once = metric(x).importance
    x[1] *= 1000
    np.testing.assert_allclose(metric(x).importance, once, rtol=1e-4)


def test_dead_inputs_only() -> None:
    found = metric(np.zeros((2, 10, 3)))
    assert np.isfinite(found.importance).all()
    assert (found.sizes == 0).all()
    tensor = fitted(weights(4, 3), "fixp4")
    codes = found.rounded(weights(4, 3), tensor).codes
    assert np.array_equal(codes, nearest_codes(weights(4, 3), tensor).codes)


def test_rows_know_their_group() -> None:
    x = inputs(5, count=3)
    found = metric(x)
    assert found.groups_of(np.array([0, 3, 4, 11]), 12).tolist() == [0, 0, 1, 2]
    means = found.row_means(12)
    assert all(np.array_equal(means[o], x[o // 4].mean(axis=0)) for o in range(12))


def one_by_one(nearest: F64, h: F64, damping: float) -> F64:
    """(R, K) e with r = e R, from H = R D R^T: what is added to an input for the errors before it adds to its own."""
    found = np.empty_like(nearest)
    for row in range(len(nearest)):
        matrix = h[row // (len(nearest) // len(h))]
        order = sorted(range(len(matrix)), key=lambda k: -matrix[k, k])
        ordered = matrix[np.ix_(order, order)] + damping * np.diag(matrix).mean() * np.eye(len(matrix))
        u = np.linalg.cholesky(np.linalg.inv(ordered)).T
        compensation = np.zeros(len(matrix))  # what GPTQ's updates have added to each input so far
        for i, k in enumerate(order):
            # nearest - w is an error of rounding w; the one of what is rounded is taken to be like it
            found[row, k] = nearest[row, k] + compensation[i]
            compensation[i:] -= -nearest[row, k] / u[i, i] * u[i, i:]
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_expected_errors_are_those_of_a_plain_loop(count: int) -> None:
    x = inputs(20, count=count)
    found = metric(x)
    w = weights(6, 20)
    tensor = fitted(w, "fixp4")
    nearest = nearest_codes(w, tensor).dequantize() - w
    expected = found.expected(nearest, found.groups_of(np.arange(6), 6))
    wanted = one_by_one(nearest.astype(np.float64), found.matrix.astype(np.float64), found.damping)
    np.testing.assert_allclose(expected, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("columns", [1, 7, SOLVED_AT_ONCE, SOLVED_AT_ONCE + 1, 2 * SOLVED_AT_ONCE + 9])
@pytest.mark.parametrize("count", [1, 4])
def test_the_solve_by_blocks_is_the_dense_inverse(columns: int, count: int) -> None:
    rng = np.random.default_rng(columns)
    factors = factor(gram(columns, count=count), 0.02)
    errors = rng.normal(size=(8, columns)).astype(np.float32)
    groups = np.arange(8) // (8 // count)
    found = expected_errors(errors, factors, groups)
    for row, g in enumerate(groups):
        order = factors.order[g]
        upper = factors.feedback[g].T.astype(np.float64) + np.eye(columns)
        wanted = errors[row, order].astype(np.float64) @ np.linalg.inv(upper)
        np.testing.assert_allclose(found[row, order], wanted, rtol=1e-3, atol=1e-4)


def test_expected_errors_of_some_rows_of_some_groups() -> None:
    factors = factor(gram(12, count=5))
    errors = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    whole = expected_errors(errors, factors, np.arange(20) // 4)
    some = np.array([17, 4, 5, 0, 18, 6])
    np.testing.assert_array_equal(expected_errors(errors[some], factors, some // 4), whole[some])


@pytest.mark.parametrize("name", ["int4", "fixp4", "posit4", "nf4"])
def test_expected_errors_tell_what_gptq_will_lose(name: str) -> None:
    x = inputs(40, samples=4000)
    found = InputMetric.of(*moments(x), centred=True, damping=0.001)
    w = weights(2000, 40)
    tensor = fit(w, resolve(name), rule="absmax")
    nearest = nearest_codes(w, tensor)
    h = found.matrix.astype(np.float64)
    e = found.expected(nearest.dequantize() - w, np.zeros(2000, np.intp)).astype(np.float64)
    realised = losses(w, gptq_factored(w, tensor, found.factors), h).sum()
    assert ((e @ h[0]) * e).sum() == pytest.approx(realised, rel=0.07)
    assert realised < 0.6 * losses(w, nearest, h).sum()


@pytest.mark.parametrize(("name", "granularity"), FITTED[::3])
def test_rounding_ends_below_gptq_alone(name: str, granularity: str) -> None:
    found = metric(inputs(24, count=2))
    w = weights(8, 24)
    w = np.abs(w) if name.startswith("uint") else w
    tensor = fitted(w, name, granularity)
    h = found.matrix.astype(np.float64)
    alone = found.rounded(w, tensor, rounds=0)
    assert np.array_equal(alone.codes, gptq_factored(w, tensor, found.factors).codes)
    damped = h + found.damping * np.trace(h, axis1=1, axis2=2)[:, None, None] / 24 * np.eye(24)
    assert losses(w, found.rounded(w, tensor), damped).sum() <= losses(w, alone, damped).sum() * (1 + 1e-6)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_signal_and_noise_are_those_of_the_outputs(count: int, centred: bool) -> None:
    x = inputs(8, count=count, samples=500) + 1.0
    w = weights(6, 8)
    tensor = fitted(w, "fixp4")
    power, noise = metric(x, centred=centred).signal_and_noise(w, tensor)
    signal = error = 0.0
    for row in range(6):
        sample = x[row // (6 // count)]
        y, gap = sample @ w[row], sample @ (tensor.dequantize()[row].astype(np.float64) - w[row])
        signal += np.mean(y**2)
        error += np.mean((gap - centred * gap.mean()) ** 2)
    assert power == pytest.approx(signal, rel=1e-4)
    assert noise == pytest.approx(error, rel=1e-4)


def test_noise_counts_what_the_quantiser_of_the_inputs_adds() -> None:
    x, step = inputs(8, samples=50_000), 0.5
    x[x == 0] = -np.random.default_rng(0).uniform(0, 5, (x == 0).sum())  # a step that errors of rounding fill
    w = weights(6, 8)
    tensor = fitted(w, "fixp4")
    _, noise = metric(x, step=step).signal_and_noise(w, tensor, step)
    gap = (np.round(x[0] / step) * step) @ tensor.dequantize().T - x[0] @ w.T
    assert noise == pytest.approx(gap.var(axis=0).sum(), rel=0.05)


def test_the_quantiser_adds_a_twelfth_of_its_squared_step_times_the_power_of_the_weights() -> None:
    w = weights(6, 8)
    tensor, found = fitted(w, "fixp4"), metric(inputs(8))
    power, noise = found.signal_and_noise(w, tensor)
    assert found.signal_and_noise(w, tensor, 3.0) == pytest.approx(
        (power, noise + 0.75 * np.square(w, dtype=np.float64).sum()), rel=1e-12
    )


def test_layers_rounded_together_share_the_mean_of_their_matrices() -> None:
    one, other, wider = metric(inputs(5, seed=1)), metric(inputs(5, seed=2)), metric(inputs(6))
    other = replace(other, damping=2 * one.damping)
    assert one.beside([]) is one
    found = one.beside([other, wider])
    wanted = (one.matrix.astype(np.float64) + other.matrix) / 2
    np.testing.assert_array_equal(found.matrix, wanted.astype(np.float32))
    np.testing.assert_array_equal(found.mean, one.mean)
    assert found.damping == other.damping


@pytest.mark.sweep
@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize(("name", "granularity"), FITTED[::3])
def test_learned_rounding_loses_no_more_in_any_row(name: str, granularity: str, rounds: int) -> None:
    """The damped error falls, by the codes alone: scales are those that GPTQ and its sweeps end with."""
    found = metric(inputs(24, count=2))
    w = weights(8, 24)
    w = np.abs(w) if name.startswith("uint") else w
    tensor = fitted(w, name, granularity)
    h = found.matrix.astype(np.float64)
    damped = h + found.damping * np.trace(h, axis1=1, axis2=2)[:, None, None] / 24 * np.eye(24)
    start = found.rounded(w, tensor, rounds=rounds)
    learned = found.rounded(w, tensor, rounds=rounds, learned=True)
    assert np.array_equal(channel_scales(learned), channel_scales(start))
    assert (losses(w, learned, damped) <= losses(w, start, damped) * (1 + 1e-6)).all()
    assert learned == found.rounded(w, tensor, rounds=rounds, learned=True)
