"""Closed forms of factors: the invariants of the notes (npp.md, section 6) and numbers of other algorithms."""

import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.low_rank import low_rank, weighted_loss

SHAPES = [(12, 20), (20, 12), (16, 16)]


def inputs(count: int, samples: int, seed: int = 0) -> F64:
    """(K, T) with a spectrum 1 / i in a random basis."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((count, count)))[0]
    sizes = 1 / np.sqrt(np.arange(1, count + 1))
    return np.asarray(basis @ (sizes[:, None] * rng.standard_normal((count, samples))))


def gram(x: F64) -> F64:
    return np.asarray(x @ x.T / x.shape[1])


def errors(shape: tuple[int, int], seed: int = 1) -> F64:
    return np.random.default_rng(seed).standard_normal(shape)


def rounding_errors(n: int, seed: int = 0) -> F32:
    w = np.random.default_rng(seed).standard_normal((n, n)).astype(np.float32)
    return w - fit(w, resolve("int4"), rule="absmax").dequantize()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["plain", "diagonal", "full"])
def test_i3_what_is_left_is_the_sum_of_the_small_singular_values(shape: tuple[int, int], kind: str) -> None:
    """The oracle is numpy's SVD of E S, S a Cholesky factor."""
    e, r = errors(shape), gram(inputs(shape[1], 400))
    metric = {"plain": None, "diagonal": np.diagonal(r).copy(), "full": r}[kind]
    root = {"plain": np.eye(shape[1]), "diagonal": np.diag(np.sqrt(np.diagonal(r)))}.get(kind)
    sigma = np.linalg.svd(e @ (np.linalg.cholesky(r) if root is None else root), compute_uv=False)
    before = np.inf
    for rank in range(1, min(shape) + 1):
        b, a = low_rank(e, rank, metric)
        assert b.shape == (shape[0], rank)
        assert a.shape == (rank, shape[1])
        left = weighted_loss(e - b @ a, metric)
        assert left == pytest.approx(float((sigma[rank:] ** 2).sum()), abs=1e-12 * float((sigma**2).sum()))
        assert left <= before
        before = left


@pytest.mark.parametrize("shape", SHAPES)
def test_i1_full_rank_gives_the_float_outputs(shape: tuple[int, int]) -> None:
    e, x = errors(shape), inputs(shape[1], 50)
    b, a = low_rank(e, min(shape), gram(x))
    np.testing.assert_allclose(b @ a @ x, e @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_i4_the_full_matrix_is_never_worse_on_the_data_and_the_order_reverses_on_the_norm(rank: int) -> None:
    for seed in range(5):
        e, r = errors((24, 40), seed), gram(inputs(40, 300, seed))
        plain, diagonal, full = (low_rank(e, rank, m) for m in (None, np.diagonal(r).copy(), r))
        by_data = [weighted_loss(e - b @ a, r) for b, a in (full, diagonal, plain)]
        assert by_data[0] < min(by_data[1:])
        by_norm = [weighted_loss(e - b @ a) for b, a in (plain, full)]
        assert by_norm[0] < by_norm[1]


@pytest.mark.parametrize(("n", "share"), [(64, 0.404), (128, 0.227), (256, 0.119), (512, 0.061)])
def test_i9_rounding_errors_are_nearly_white(n: int, share: float) -> None:
    e = rounding_errors(n)
    b, a = low_rank(e, 8)
    assert 1 - weighted_loss(e - b @ a) / weighted_loss(e) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_more_rank_than_there_is_and_too_few_samples_are_no_error(shape: tuple[int, int]) -> None:
    e, x = errors(shape), inputs(shape[1], 5)
    b, a = low_rank(e, 100, gram(x))  # the data span five directions
    assert b.shape[1] <= min(shape)
    assert weighted_loss(e - b @ a, gram(x)) < 1e-12 * weighted_loss(e, gram(x))
    assert np.linalg.norm(a) <= np.linalg.norm(e)  # nothing was blown up by a small eigenvalue


@pytest.mark.parametrize("shape", SHAPES)
def test_dead_inputs_and_zero_errors(shape: tuple[int, int]) -> None:
    x = inputs(shape[1], 200)
    x[[0, 3]] = 0
    b, a = low_rank(errors(shape), 4, gram(x))
    assert np.isfinite(b).all()
    assert np.isfinite(a).all()
    b, a = low_rank(np.zeros(shape), 4, gram(x))
    np.testing.assert_array_equal(b @ a, 0)
    b, a = low_rank(errors(shape), 4, np.zeros((shape[1], shape[1])))
    assert np.isfinite(b @ a).all()


def test_what_makes_no_sense_is_refused() -> None:
    e = errors((4, 6))
    with pytest.raises(FormatError, match="no factors of rank 0"):
        low_rank(e, 0)
    with pytest.raises(FormatError, match=r"a metric of shape \(4, 4\)"):
        low_rank(e, 1, np.eye(4))
    e[0, 0] = np.nan
    with pytest.raises(FormatError, match="NaN or infinity"):
        low_rank(e, 1)
