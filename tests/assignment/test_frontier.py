import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.assignment.frontier import corners, curve
from lpcompile.assignment.infeasible import reach
from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Item
from lpcompile.errors import BudgetError
from tests.assignment.problems import between, layers, selections, small


def hull_of_all(items: list[Item]) -> list[tuple[float, float]]:
    """Lower left hull of every selection, by trying every pair of points."""
    points = {
        (math.fsum(c.costs["bytes"] for c in s), math.fsum(c.loss for c in s)) for s in selections(items)
    }
    front = [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]
    front.sort()
    hull = []
    for p in front:
        over = any(
            a[1] + (b[1] - a[1]) * (p[0] - a[0]) / (b[0] - a[0]) <= p[1] + 1e-9
            for a in front for b in front if a[0] < p[0] < b[0]
        )  # fmt: skip
        if not over:
            hull.append(p)
    return hull


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1))
def test_the_corners_are_those_of_the_hull_of_all_selections(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    items = small(rng, depth, bounds=1, count=3 if depth == 0 else 2)
    want = hull_of_all(items)
    got = [(p.cost, p.loss) for p in corners(items, "bytes")]
    for point in want:
        assert any(point == pytest.approx(g, rel=1e-9, abs=1e-8) for g in got)


def test_corners_are_exact_and_the_curve_between_them_falls() -> None:
    items = layers(2, 30, 6)
    budgets = [between(items, {"bytes": s})["bytes"] for s in (0.1, 0.33, 0.5)]
    points = curve(items, "bytes", budgets=budgets, most=20)
    assert [p.corner for p in points].count(True) <= 20
    assert all(a.cost < b.cost and a.loss > b.loss for a, b in pairwise(points))
    for point in points[::5]:
        assert solve(items, {"bytes": point.cost}).loss == pytest.approx(point.loss, rel=1e-12)
    assert all(sum(p.counts.values()) == 30 for p in points)
    ends = reach(items, "bytes")
    assert points[0].cost == ends[0]
    assert points[-1].cost <= ends[1]
    assert points[-1].loss == math.fsum(min(c.loss for c in i.choices) for i in items)


def test_the_ends_of_a_flat_curve_are_one_point() -> None:
    items = [Item("l", [Choice("a", 1.0, {"bytes": 4}), Choice("b", 1.0, {"bytes": 3})])]
    assert [(p.cost, p.loss) for p in curve(items, "bytes")] == [(3, 1)]
    assert curve([], "bytes") == ()


def test_a_budget_below_the_curve_is_named() -> None:
    with pytest.raises(BudgetError, match="bytes cannot be brought to 1"):
        curve(layers(2, 5, 3), "bytes", budgets=[1.0])
