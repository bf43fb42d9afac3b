"""Several orders of GPTQ: never worse than what was there, better than one order, the same for a seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.errors import CalibrationError
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.gptq import gptq
from lpcompile.quant.gram_factor import factor
from lpcompile.quant.nearest_codes import nearest_codes
from tests.bench.experiments.order_search import best_of_orders
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.sampled_from(FITTED), st.integers(1, 30))
def test_no_row_gets_worse(seed: int, columns: int, fit: tuple[str, str], samples: int) -> None:
    w = weights(4, columns, seed)
    h = gram_of(inputs(columns, samples=samples, seed=seed))
    start = gptq(w, fitted(w, *fit), h)
    found = best_of_orders(w, start, h, drawn=2, damping=0, seed=seed)
    assert (losses(w, found, h) <= losses(w, start, h) * (1 + 1e-5)).all()
    assert found.scales is start.scales


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_better_than_one_order(name: str, granularity: str) -> None:
    w, h = weights(20, 30), gram(30, count=2)
    damped = h + 0.01 * np.diagonal(h, axis1=1, axis2=2).mean(1)[:, None, None] * np.eye(30)
    one = sweep(w, gptq(w, fitted(w, name, granularity), h), h, damping=0.01)
    found = best_of_orders(w, one, h)
    assert losses(w, found, damped).sum() < 0.995 * losses(w, one, damped).sum()


def test_same_codes_for_a_seed_and_groups() -> None:
    w, h = weights(8, 12), gram(12, count=3)
    groups = np.array([2, 0, 1, 2, 2, 0, 0, 1])
    start = nearest_codes(w, fitted(w, "nf4", "group"))
    found = best_of_orders(w, start, h, groups, seed=4)
    assert found == best_of_orders(w, start, h, groups, seed=4)
    assert found != best_of_orders(w, start, h, groups, drawn=1, seed=5)
    assert (losses(w, found, h, groups) < losses(w, start, h, groups) * 1.05).all()


def test_a_given_order_is_used() -> None:
    h = gram(12, count=2)
    order = np.argsort(-np.diagonal(h, axis1=1, axis2=2), axis=1, kind="stable")
    found, expected = factor(h, 0.01, order), factor(h, 0.01, "activation")
    assert np.array_equal(found.feedback, expected.feedback)
    assert not np.array_equal(factor(h, 0.01, order[:, ::-1]).feedback, expected.feedback)
    with pytest.raises(CalibrationError, match="permutations"):
        factor(h, 0.01, order[:1])
    with pytest.raises(CalibrationError, match="permutations"):
        factor(h, 0.01, np.zeros_like(order))
