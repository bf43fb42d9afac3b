"""Multipliers of groups, against all fifteen tried one by one."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.formats.group import MULTIPLIERS, group_table
from lpcompile.quant.group_search import _Block
from tests.support import Array

SIZE, GROUPS = 8, 6


def errors_by_hand(quotients: Array, importance: Array, table: Array) -> Array:
    """(15, R, G) of quotients (R, G, SIZE): squares of what is left beside each row of the table."""
    found = [((quotients[..., None] - table[m]) ** 2).min(-1) @ importance for m in range(1, MULTIPLIERS + 1)]
    return np.array(found)


@pytest.mark.parametrize("name", ["fixp4", "nf4", "float4_e2m1fn"])  # two steps of posit4 hold all of one
def test_the_best_of_all_multipliers_is_found_down_to_one(name: str) -> None:
    fmt, rng = resolve(name), np.random.default_rng(3)
    sizes = np.array([0.3, 2.0, 4.0, 8.0, 12.0, 15.0])[:, None]  # of groups, in multipliers
    table = group_table(fmt).astype(np.float64)
    w = (rng.uniform(-1, 1, (5, GROUPS, SIZE)) * sizes).astype(np.float32)
    importance = rng.uniform(0.5, 2, SIZE)
    block = _Block(w.reshape(5, -1), fmt, SIZE, np.tile(importance, GROUPS).astype(np.float32))
    _, of_ones = block._quotients(np.ones(5, np.float32))  # they fall as scales grow
    largest = np.abs(of_ones.T.reshape(5, -1)).max(axis=1)
    scales = (largest / np.abs(table).max()).astype(np.float32)
    _, quotients = block._quotients(scales)
    at = quotients.T.reshape(5, GROUPS, SIZE).astype(np.float64)
    found, _ = block.with_multipliers(scales, np.full((5, GROUPS), 8, np.uint8), reach=14)
    errors = errors_by_hand(at, importance, table)
    chosen = np.take_along_axis(errors, found.astype(int)[None] - 1, axis=0)[0]
    np.testing.assert_allclose(chosen, errors.min(0), rtol=1e-5)
    assert found.min() == 1
    assert found.max() > 10
