"""Group-aware order against the notes' example, act-order at both ends, and a plain sort."""

import numpy as np
import pytest

from lpcompile.quant.group_order import group_aware_order


def by_sorting(diagonal: list[float], size: int) -> list[int]:
    groups = [list(range(i, min(i + size, len(diagonal)))) for i in range(0, len(diagonal), size)]
    groups = [sorted(g, key=lambda k: -diagonal[k]) for g in groups]
    groups.sort(key=lambda g: -max(diagonal[k] for k in g))
    return [k for g in groups for k in g]


def test_example() -> None:  # V3
    diagonal = np.array([[1, 5, 3, 2, 9, 4, 7, 8, 6, 0.5, 10, 2]])
    assert group_aware_order(diagonal, 4)[0].tolist() == [10, 8, 11, 9, 4, 7, 6, 5, 1, 2, 3, 0]


@pytest.mark.parametrize("size", [1, 12, 50])
def test_ends_are_the_full_order_of_activations(size: int) -> None:  # I9
    diagonal = np.random.default_rng(0).uniform(size=(2, 12))
    wanted = np.argsort(-diagonal, axis=1, kind="stable")
    np.testing.assert_array_equal(group_aware_order(diagonal, size), wanted)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 16])
def test_ties_go_to_the_lower_index(size: int) -> None:  # B13
    diagonal = np.random.default_rng(1).integers(0, 3, size=(5, 14)).astype(np.float64)
    found = group_aware_order(diagonal, size)
    for d, order in zip(diagonal, found, strict=True):
        assert order.tolist() == by_sorting(d.tolist(), size)
        np.testing.assert_array_equal(order[np.argsort(order)], np.arange(14))  # and back
