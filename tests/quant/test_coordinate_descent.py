"""Coordinate descent: the loss never rises, no single change helps at its end, all combinations are no better."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.gptq import gptq
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights


def usable_codes(tensor: QuantizedTensor) -> list[int]:
    return np.flatnonzero(np.isfinite(tensor.format.table())).tolist()


def changed(tensor: QuantizedTensor, row: int, k: int, code: int) -> QuantizedTensor:
    codes = tensor.codes.copy()
    codes[row, k] = code
    return replace(tensor, codes=codes)


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_no_row_gets_worse_and_most_get_better(name: str, granularity: str) -> None:
    w, h = weights(12, 40), gram(40, count=2)
    start = nearest_codes(w, fitted(w, name, granularity))
    before, found = losses(w, start, h), sweep(w, start, h, block=16)
    after = losses(w, found, h)
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.8 * before.sum()
    assert found.scales is start.scales
    assert not np.isnan(found.format.decode(found.codes)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from(FITTED), st.integers(1, 40))
def test_loss_never_rises(seed: int, columns: int, fit: tuple[str, str], samples: int) -> None:
    w = weights(4, columns, seed)
    h = gram_of(inputs(columns, samples=samples, seed=seed))
    tensor = fitted(w, *fit)
    usable = np.array(usable_codes(tensor), np.uint8)
    start = replace(tensor, codes=np.random.default_rng(seed).choice(usable, w.shape))
    known = losses(w, start, h)
    for _ in range(3):
        start = sweep(w, start, h, sweeps=1)
        found = losses(w, start, h)
        assert (found <= known * (1 + 1e-5)).all()
        known = found


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "granularity"), [f for f in FITTED if f[0] not in ("int8", "posit8")])
def test_no_single_change_helps_at_the_end(name: str, granularity: str) -> None:
    w, h = weights(2, 12), gram(12)
    found = sweep(w, nearest_codes(w, fitted(w, name, granularity)), h, sweeps=100)
    least = losses(w, found, h)
    for row, k, code in product(range(2), range(12), usable_codes(found)):
        assert losses(w, changed(found, row, k, code), h)[row] >= least[row] * (1 - 1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["int2", "int3"])
def test_close_to_the_best_of_all_combinations(name: str, seed: int) -> None:
    columns = 4
    w, h = weights(8, columns, seed), gram(columns, seed=seed)
    tensor = fitted(w, name)
    combinations = np.array(list(product(usable_codes(tensor), repeat=columns)), np.uint8)
    levels = tensor.format.decode(combinations)
    step = tensor.granularity.expand(np.asarray(tensor.scales), w.shape)
    errors = levels * step[:, None] - w[:, None]  # (rows, combinations, columns)
    best = np.einsum("rni,ij,rnj->rn", errors, h[0], errors).min(axis=1)
    first = gptq(w, tensor, h)
    found = losses(w, sweep(w, first, h, sweeps=20), h)
    assert (found >= best * (1 - 1e-5)).all()
    assert found.sum() <= losses(w, first, h).sum() * (1 + 1e-6)
    assert found.sum() < 1.25 * best.sum()
    assert losses(w, nearest_codes(w, tensor), h).sum() > found.sum()


def one_by_one(w: F32, tensor: QuantizedTensor, h: F64) -> QuantizedTensor:
    """One sweep that tries every code of every element."""
    for row, k in product(range(len(w)), range(w.shape[1])):
        tried = [changed(tensor, row, k, code) for code in usable_codes(tensor)]
        best = min(tried, key=lambda t: float(losses(w, t, h)[row]))
        if losses(w, best, h)[row] < losses(w, tensor, h)[row]:
            tensor = best
    return tensor


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("int4", "channel"), ("posit4", "group"), ("nf4", "tensor"), ("posit4es1", "channel")],
)
def test_a_sweep_is_the_best_code_of_one_input_after_another(name: str, granularity: str) -> None:
    w, h = weights(3, 11), gram(11)
    start = nearest_codes(w, fitted(w, name, granularity))
    expected = one_by_one(w, start, h).codes
    assert (expected != start.codes).any()
    for block in (1, 4, 128):
        assert np.array_equal(sweep(w, start, h, sweeps=1, block=block).codes, expected)


def test_a_second_run_changes_nothing() -> None:
    w, h = weights(10, 60), gram(60)
    first = sweep(w, nearest_codes(w, fitted(w, "posit4")), h, sweeps=100)
    assert np.array_equal(sweep(w, first, h, sweeps=100).codes, first.codes)


def test_inputs_that_are_always_zero_get_the_nearest_codes() -> None:
    w, x = weights(6, 12), inputs(12)
    x[:, :, 5] = 0
    tensor = fitted(w, "fixp4")
    found = sweep(w, gptq(w, tensor, gram_of(x)), gram_of(x))
    assert np.array_equal(found.codes[:, 5], nearest_codes(w, tensor).codes[:, 5])


def test_damping_falls_with_its_own_loss() -> None:
    w, h = weights(10, 30), gram_of(inputs(30, samples=4))
    damped = h + 0.3 * np.diagonal(h[0]).mean() * np.eye(30)
    start = gptq(w, fitted(w, "fixp4"), h, damping=0.3)
    found = sweep(w, start, h, damping=0.3)
    assert np.array_equal(found.codes, sweep(w, start, damped).codes)
    assert losses(w, found, damped).sum() < losses(w, start, damped).sum()


def test_size_of_inputs_is_free() -> None:
    w, h = weights(10, 30), gram(30)
    start = nearest_codes(w, fitted(w, "fixp4"))
    assert np.array_equal(sweep(w, start, h * 1e60).codes, sweep(w, start, h).codes)


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_row_losses(name: str, granularity: str) -> None:
    w, h = weights(6, 20), gram(20, count=3)
    tensor = nearest_codes(w, fitted(w, name, granularity))
    assert np.allclose(row_losses(w, tensor, h), losses(w, tensor, h), rtol=1e-4)
    groups = np.array([2, 0, 1, 2, 2, 0])
    assert np.allclose(row_losses(w, tensor, h, groups), losses(w, tensor, h, groups), rtol=1e-4)
    assert resolve(name) == tensor.format
