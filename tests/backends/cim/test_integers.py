"""Sums and products of the simulator against Python's own integers, at the edges of each width."""

import numpy as np
import pytest

from lpcompile.backends.cim.simulator.integers import INT32_HIGH, INT32_LOW, add_into, product


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("bounds", [None, (-(1 << 40), 1 << 40)])
@pytest.mark.parametrize("start", [0, 5, -5])
@pytest.mark.parametrize(
    "more", [0, 1, -1, INT32_HIGH, INT32_LOW, INT32_HIGH - 5, INT32_HIGH + 1, INT32_LOW - 1]
)
def test_sums_fit_or_stay_as_they_were(
    more: int, start: int, bounds: tuple[int, int] | None, init: bool
) -> None:
    """The bounds may be wider than the numbers: only what comes out counts."""
    sums = np.array([start, 0], np.int32)
    low, high = bounds or (min(more, 0), max(more, 0))
    wanted = (0 if init else start) + more
    fits = INT32_LOW <= wanted <= INT32_HIGH
    assert add_into(sums, np.array([more, 0], np.int64), low, high, init=init) == fits
    assert sums.tolist() == ([wanted, 0] if fits else [start, 0])


@pytest.mark.parametrize("most_x", [1, 255, 1 << 15, 1 << 31])
@pytest.mark.parametrize("most_w", [7, 127, 1 << 15, (1 << 29) - 1])
def test_products_are_exact_to_the_last_bit(most_x: int, most_w: int) -> None:
    """Odd neighbours of the largest values: a float of too few bits would round their sum."""
    x = np.array([[most_x, most_x - 1, -most_x]], np.int64)
    w = np.array([[most_w, -most_w], [most_w - 1, most_w], [most_w, 1 - most_w]], np.int64)
    found = product(x, w, most_x, most_w)
    assert [int(v) for v in found.reshape(-1)] == (x.astype(object) @ w.astype(object)).reshape(-1).tolist()


def test_a_product_beyond_int64_is_refused() -> None:
    edge = np.full((1, 2), 1 << 31), np.full((2, 1), 1 << 31)
    with pytest.raises(OverflowError):
        product(*edge, 1 << 31, 1 << 31)
