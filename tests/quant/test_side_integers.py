"""Side paths in integers: the real product within what rounding allows, no clip, every sum exact in float32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.errors import FormatError
from lpcompile.quant.dyadic import Codes
from lpcompile.quant.side_integers import LARGEST_HIDDEN, SideIntegers, side_integers, side_sums
from lpcompile.quant.side_path import SidePath, side_path

ZEROS = (0, 3, 128, 255)


def path_of(outputs: int, inputs: int, rank: int, seed: int, spread: float = 1.0) -> SidePath:
    rng = np.random.default_rng(seed)
    b = rng.normal(0, spread, (outputs, rank)) * np.exp(rng.normal(0, 1, rank))
    w8 = rng.integers(-8, 8, (outputs, inputs)).astype(np.int8)
    path = side_path(
        b, rng.normal(0, 0.1, (rank, inputs)), w8, np.ones((), np.float32), largest=8, apart=True
    )
    assert path is not None
    return path


def exact(side: SideIntegers, x: np.ndarray, zero: int) -> list[list[int]]:
    """Whole numbers of Python, sample by sample; no sum beyond what is said."""
    found = []
    for row in x.tolist():
        hidden = []
        for j, a in enumerate(side.a.tolist()):
            total = sum(w * (q - zero) for w, q in zip(a, row, strict=True))
            h = (total * int(side.hidden.m[j]) + int(side.hidden.b[j])) >> int(side.hidden.k[j])
            assert abs(h) <= side.hidden.high <= LARGEST_HIDDEN, "nothing is clipped"
            hidden.append(h)
        line = []
        for c, b in enumerate(side.b.tolist()):
            assert sum(abs(w * h) for w, h in zip(b, hidden, strict=True)) < 1 << 24
            total = sum(w * h for w, h in zip(b, hidden, strict=True))
            added = (total * int(side.added.m[0]) + int(side.added.b[0])) >> int(side.added.k[0])
            assert abs(added) <= int(side.reach[c]) <= side.added.high < 1 << 31
            line.append(added)
        found.append(line)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from(ZEROS),
    st.sampled_from([15, 255]),
    st.integers(0, 99),
)
def test_the_real_product_within_what_rounding_allows(
    outputs: int, inputs: int, rank: int, zero: int, top: int, seed: int
) -> None:
    zero = min(zero, top)
    path = path_of(outputs, inputs, rank, seed)
    side = side_integers(path, Codes(zero, 0, top))
    rng = np.random.default_rng(seed)
    x = rng.integers(0, top + 1, (5, inputs))
    x[0], x[1] = 0, top
    x[2] = np.where(side.a[0] > 0, top, 0)  # the ends of the first sum
    sums = (x - zero) @ side.a.T.astype(np.int64)
    found = side_sums(side, sums)
    assert found.tolist() == exact(side, x, zero)
    n, u = path.multipliers.astype(np.float64), float(path.unit)
    real = u * (sums * n) @ path.b.T.astype(np.float64)
    by_row = np.abs(path.b.astype(np.float64)).sum(axis=1)
    multipliers = 2.0**-13 * (np.abs(sums * n) @ np.abs(path.b.T.astype(np.float64))) * u
    bound = 1 + multipliers + by_row * _hidden_step(path, zero, top) * u
    assert (np.abs(found - real) <= bound).all()


def _hidden_step(path: SidePath, zero: int, top: int) -> float:
    """Of the numbers between the products, in the products a8 (x - zero) n: the largest sum over the largest number."""
    a, n = path.a.astype(np.float64), path.multipliers.astype(np.float64)
    ends = np.abs(np.maximum(a, 0).sum(1) * (top - zero) - np.minimum(a, 0).sum(1) * zero)
    ends = np.maximum(ends, np.abs(np.minimum(a, 0).sum(1) * (top - zero) - np.maximum(a, 0).sum(1) * zero))
    largest = min(
        LARGEST_HIDDEN, ((1 << 24) - 1) // max(1, int(np.abs(path.b.astype(np.int64)).sum(1).max()))
    )
    return float((ends * n).max()) / (largest - 1)


def test_many_ranks_leave_fewer_bits_between_the_products() -> None:
    few, many = (side_integers(path_of(8, 30, rank, 1), Codes(0, 0, 255)) for rank in (2, 300))
    assert few.hidden.high == LARGEST_HIDDEN == np.iinfo(np.int16).max
    assert 200 < many.hidden.high < 1000


def test_a_path_that_may_leave_int32_is_refused() -> None:
    rank, inputs = 400, 4000
    ones = np.full((1, rank), 127, np.int8), np.full((rank, inputs), 127, np.int8)
    steps = np.ones(1, np.uint8), np.ones((), np.float32)
    path = SidePath(*ones, np.full(rank, 255, np.uint8), np.ones((), np.float32), *steps, apart=True)
    with pytest.raises(FormatError, match="more than int32 holds"):
        side_integers(path, Codes(0, 0, 255))
