"""A side path that runs apart, number by number."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.quant.dyadic import Codes
from lpcompile.quant.side_integers import largest_hidden
from lpcompile.quant.side_numbers import SideNumbers, side_floats, side_numbers
from lpcompile.quant.side_path import SidePath, side_path

RNG = np.random.default_rng(5)
X = RNG.integers(-128, 128, (7, 20))
SCALE = RNG.uniform(0.01, 0.02, 6).astype(np.float32)


def path_of(size: float = 1.0) -> SidePath:
    b, a = RNG.standard_normal((6, 3)) * SCALE[:, None] * size, RNG.standard_normal((3, 20))
    found = side_path(b, a, np.ones((6, 20), np.int8), SCALE, apart=True)
    assert found is not None
    return found


@pytest.mark.parametrize("high", [3.0, 1000.0, 32767.0])
def test_what_a_path_adds_is_two_products_and_a_clip(high: float) -> None:
    """In whole numbers of Python; hidden numbers end at H on either side."""
    path = path_of()
    m = np.array([0.01, 0.25, 2.0], np.float32)
    numbers = SideNumbers(path.a, path.b, m, SCALE, np.asarray(high, np.float32))
    x_scale = np.float32(0.125)
    found = side_floats(numbers, X, x_scale)
    ends = set()
    for row in range(len(X)):
        hidden = []
        for j in range(3):
            total = sum(int(x) * int(a) for x, a in zip(X[row], path.a[j], strict=True))
            h = round(float(np.float32(total) * m[j]))
            hidden.append(max(-int(high), min(int(high), h)))
            ends.add(hidden[-1] / high)
        for c in range(6):
            total = sum(int(b) * h for b, h in zip(path.b[c], hidden, strict=True))
            assert found[row, c] == np.float32(total) * np.float32(x_scale * SCALE[c])
    assert high > 1000 or {-1.0, 1.0} <= ends


@pytest.mark.parametrize("x", [Codes(0, 0, 255), Codes(128, 0, 255), None])
def test_hidden_numbers_use_the_bits_that_there_are(x: Codes | None) -> None:
    """The farthest that codes can bring them is H but one; products stay what the factors say."""
    path = path_of()
    numbers = side_numbers(path, x, SCALE)
    assert int(numbers.high) == largest_hidden(path.b)
    zeros = [x.zero] if x is not None else [0, 255]
    reach = 0.0
    for zero in zeros:
        low, high = -zero, 255 - zero
        for a, m in zip(path.a.astype(int), numbers.m, strict=True):
            most = max(int(np.maximum(a * low, a * high).sum()), -int(np.minimum(a * low, a * high).sum()))
            reach = max(reach, most * float(m))
    assert reach == pytest.approx(float(numbers.high) - 1, rel=1e-5)
    wanted = (path.b * path.multipliers * float(path.unit)) @ path.a.astype(float)
    product = (numbers.b * numbers.m.astype(float)) @ numbers.a.astype(float) * numbers.scale[:, None]
    np.testing.assert_allclose(product, wanted * SCALE[:, None], rtol=1e-5, atol=1e-8)


def test_a_path_of_tiny_sums_is_not_brought_up_without_end() -> None:
    """Where no input can make anything of it, there is no reach to divide by."""
    path = path_of()
    zero = replace(path, a=np.zeros_like(path.a))
    numbers = side_numbers(zero, Codes(0, 0, 255), SCALE)
    assert np.isfinite(numbers.m).all()
    assert not side_floats(numbers, X, np.float32(1)).any()
