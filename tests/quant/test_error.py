import math

import numpy as np
import pytest

from lpcompile.quant.error import cosine, mse, sqnr_db


def test_by_hand() -> None:
    r, a = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    assert mse(r, a) == 0.125
    assert sqnr_db(r, a) == 20.0  # 25 / 0.25
    assert math.isclose(cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])), math.sqrt(0.5))


def test_ends() -> None:
    x = np.array([[1.0, -2.0]], np.float32)
    assert sqnr_db(x, x) == math.inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf
    assert cosine(np.zeros(2), np.zeros(2)) == 1
    assert cosine(np.zeros(2), np.ones(2)) == 0
    assert cosine(x, -x) == pytest.approx(-1)


def test_sums_are_float64_and_blocks_join() -> None:
    r = np.full(600_000, 1e4, np.float32)
    a = r.copy()
    a[::3] += 1
    assert mse(r, a) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize("measure", [mse, sqnr_db, cosine])
def test_shapes_must_agree(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="shapes differ"):
        measure(np.zeros((2, 3)), np.zeros((3, 2)))
