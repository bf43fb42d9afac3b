"""Rotations are orthogonal, and spread what stands out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.analysis.hadamard import hadamard, rotation


@pytest.mark.parametrize("n", [1, 2, 4, 12, 20, 24, 28, 36, 60, 128, 192, 384, 768, 1280])
def test_orders_that_are_known(n: int) -> None:
    h = hadamard(n)
    assert h is not None
    assert (np.abs(h) == 1).all()
    assert (h[:, 0] == 1).all()
    np.testing.assert_array_equal(h @ h.T, n * np.eye(n))


@pytest.mark.parametrize("n", [3, 6, 7, 10, 30, 92])
def test_orders_that_are_not(n: int) -> None:
    assert hadamard(n) is None


@given(n=st.integers(1, 96), seed=st.integers(0, 99), keeps_mean=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_width_has_a_rotation(n: int, seed: int, keeps_mean: bool) -> None:
    q = rotation(n, np.random.default_rng(seed), keeps_mean=keeps_mean)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-12)
    if keeps_mean:
        np.testing.assert_allclose(q.sum(1), 1, atol=1e-12)
        np.testing.assert_allclose(q.sum(0), 1, atol=1e-12)


@pytest.mark.parametrize("keeps_mean", [False, True])
def test_one_channel_spreads_over_all(keeps_mean: bool) -> None:
    q = rotation(128, np.random.default_rng(3), keeps_mean=keeps_mean)
    assert np.abs(q).max() < 0.4  # a unit vector has 1, an even one 0.09


def test_a_seed_is_a_rotation() -> None:
    one, same, other = (rotation(16, np.random.default_rng(s), keeps_mean=False) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
