import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Item
from lpcompile.errors import BudgetError, PassError
from tests.assignment.problems import (
    NAMES,
    all_labels,
    between,
    by_capacity,
    exhaustive,
    layers,
    least_excess,
    selections,
    shuffled,
    small,
)


def drawn_bounds(rng: np.random.Generator, items: list[Item], bounds: int) -> dict[str, float]:
    """Somewhere between the least and the most; often exactly what a selection costs."""
    sums = np.array([[math.fsum(c.costs[n] for c in s) for n in NAMES[:bounds]] for s in selections(items)])
    low, high = sums.min(0), sums.max(0)
    exact = sums[rng.integers(len(sums))]
    share = low + rng.uniform(0, 0.7, bounds) * (high - low)
    return dict(zip(NAMES, np.where(rng.random(bounds) < 0.5, share, exact).tolist(), strict=False))


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 2))
def test_the_loss_is_the_least_of_all_selections(seed: int, bounds: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    items = small(rng, depth, bounds=bounds, count=5 if depth == 0 else 2)
    asked = drawn_bounds(rng, items, bounds)
    least = exhaustive(items, asked)
    if math.isinf(least):
        with pytest.raises(BudgetError):
            solve(items, asked)
        return
    found = solve(items, asked)
    assert found.loss == pytest.approx(least, rel=1e-12, abs=0)
    assert (found.gap, found.notes, found.method) == (0, (), "exact")
    taken = all_labels(items, found.picked)
    assert len(taken) == len(found.picked)
    assert found.loss == math.fsum(c.loss for c in taken)
    for name, bound in asked.items():
        assert found.costs[name] == math.fsum(c.costs[name] for c in taken) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_mid_size_problems_agree_with_dynamic_programming_over_the_capacity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [
        Item(
            f"l{i}",
            [
                Choice(f"f{j}", 10 ** rng.uniform(-3, 3), {"bytes": int(rng.integers(0, 60))})
                for j in range(8)
            ],
        )
        for i in range(80)
    ]
    bound = int(between(items, {"bytes": 0.2})["bytes"])
    found = solve(items, {"bytes": bound})
    assert found.loss == pytest.approx(by_capacity(items, "bytes", bound), rel=1e-12)
    assert found.gap == 0


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["sensitivity", "integer", "correlated", "uncorrelated"])
@pytest.mark.parametrize("bounds", [1, 2, 3])
def test_two_hundred_layers_of_twelve_formats_are_solved_exactly(kind: str, bounds: int) -> None:
    items = layers(4, 200, 12, bounds, kind)
    asked = between(items, dict(zip(NAMES, [0.4, 0.3, 0.3][:bounds], strict=False)))
    found = solve(items, asked)
    assert found.gap == 0
    assert all(found.costs[n] <= b * (1 + 1e-12) for n, b in asked.items())


def test_a_bound_of_zero_leaves_only_what_costs_nothing() -> None:
    items = [
        Item(f"l{i}", [Choice("fixp4", 1.0 + i, {"posit": 0}), Choice("posit4", 0.5, {"posit": 10})])
        for i in range(4)
    ]
    found = solve(items, {"posit": 0.0})
    assert set(found.picked.values()) == {"fixp4"}


def test_losses_over_fifteen_decades_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    items = [
        Item(f"l{i}", [Choice("a", 10.0**e, {"bytes": 1}), Choice("b", 0.0, {"bytes": 2})])
        for i, e in enumerate(rng.permutation(np.arange(-12, 4)))
    ]
    for room in range(16):
        found = solve(items, {"bytes": 16 + room})
        assert found.loss == pytest.approx(sum(10.0**e for e in range(-12, 4 - room)), rel=1e-12)


def test_without_bounds_every_item_takes_its_least_loss() -> None:
    items = layers(1, 20, 5)
    assert solve(items, {}).loss == math.fsum(min(c.loss for c in i.choices) for i in items)
    assert solve(items, {"bytes": math.inf}).loss == solve(items, {}).loss
    assert solve([], {"bytes": 1.0}).picked == {}


def test_of_equal_losses_the_cheaper_and_then_the_first_is_taken() -> None:
    item = Item(
        "l",
        [Choice("dear", 1, {"bytes": 5}), Choice("first", 1, {"bytes": 3}), Choice("same", 1, {"bytes": 3})],
    )
    assert solve([item], {"bytes": 9}).picked == {"l": "first"}


@pytest.mark.parametrize("bounds", [1, 2])
def test_the_order_of_the_items_changes_nothing(bounds: int) -> None:
    items = layers(7, 60, 8, bounds, "integer")
    asked = between(items, dict(zip(NAMES, [0.3, 0.4][:bounds], strict=False)))
    first = solve(items, asked)
    for seed in range(3):
        again = solve(shuffled(items, seed), asked)
        assert (again.loss, again.costs, dict(again.picked)) == (first.loss, first.costs, dict(first.picked))
    assert list(first.picked) == [i.name for i in items]


def test_the_same_cost_under_two_names_is_one_bound() -> None:
    items = layers(5, 40, 6)
    doubled = [
        Item(i.name, [Choice(c.label, c.loss, {**c.costs, "bits": 8 * c.costs["bytes"]}) for c in i.choices])
        for i in items
    ]
    (bound,) = between(items, {"bytes": 0.3}).values()
    one = solve(items, {"bytes": bound})
    assert solve(doubled, {"bytes": bound, "bits": 8 * bound}).loss == one.loss
    assert solve(doubled, {"bytes": 2 * bound, "bits": 8 * bound}).loss == one.loss


@pytest.mark.thorough
def test_nodes_that_run_out_leave_an_honest_gap() -> None:
    items = layers(3, 200, 12, 3, "correlated")
    asked = between(items, dict.fromkeys(NAMES, 0.4))
    exact = solve(items, asked)
    cut = solve(items, asked, node_limit=2000)
    assert exact.gap == 0 < cut.gap < 1e-2
    assert cut.lower_bound <= exact.loss <= cut.loss
    assert "at least" in cut.notes[0]


@pytest.mark.thorough
def test_a_tolerance_is_kept() -> None:
    items = layers(3, 200, 12, 2, "correlated")
    asked = between(items, {"bytes": 0.4, "ace": 0.3})
    exact, near = solve(items, asked), solve(items, asked, tolerance=1e-2)
    assert near.lower_bound <= exact.loss <= near.loss <= exact.loss * 1.01
    assert near.gap <= 1e-2


@pytest.mark.parametrize("widths", [1, 2])
def test_a_group_is_decided_together_with_its_layers(widths: int) -> None:
    rng = np.random.default_rng(widths)

    def layer(name: str, factor: float) -> Item:
        bits = rng.uniform(2, 8, 6)
        return Item(
            name,
            [Choice(f"w{j}", float(4.0**-b * rng.uniform(1, 9)), {"ace": float(factor * b), "bytes": float(b)})
             for j, b in enumerate(bits)],
        )  # fmt: skip

    groups = [
        Item(
            f"act{g}",
            [
                Choice(f"a{a}", 0.1 * 4.0 ** -(a - 2), {}, [layer(f"l{g}.{k}", a) for k in range(2)])
                for a in (4, 8)
            ],
        )
        for g in range(2)
    ]
    asked = {"ace": 130.0, "bytes": 22.0} if widths == 2 else {"ace": 110.0}
    found = solve(groups, asked)
    assert found.loss == pytest.approx(exhaustive(groups, asked), rel=1e-12)
    assert sorted(found.picked) == ["act0", "act1", "l0.0", "l0.1", "l1.0", "l1.1"]


@pytest.mark.thorough
def test_many_groups_are_solved_exactly() -> None:
    rng = np.random.default_rng(4)
    groups = []
    for g in range(60):
        members = layers(int(rng.integers(2**31)), 3, 8, 2)
        groups.append(
            Item(
                f"act{g}",
                [
                    Choice(
                        f"a{bits}",
                        1e-3 * 4.0**-bits,
                        {},
                        [Item(f"{g}.{m.name}",
                              [Choice(c.label, c.loss, {n: v * (bits if n == "ace" else 1) for n, v in c.costs.items()})
                               for c in m.choices]) for m in members],
                    )
                    for bits in (4, 6, 8)
                ],
            )
        )  # fmt: skip
    most, least = (solve(groups, b).costs for b in ({}, {"bytes": math.inf}))
    assert most == least
    found = solve(groups, {"bytes": 0.7 * most["bytes"], "ace": 0.6 * most["ace"]})
    assert found.gap == 0
    assert found.loss == math.fsum(c.loss for c in all_labels(groups, found.picked))


def test_a_bound_below_everything_names_the_least() -> None:
    items = layers(2, 10, 4, 2)
    least = between(items, {"bytes": 0.0})["bytes"]
    with pytest.raises(BudgetError, match=r"bytes cannot be brought to 1: the least is") as caught:
        solve(items, {"bytes": 1.0, "ace": 1e30})
    assert caught.value.nearest == {"bytes": least}
    assert caught.value.hint is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1))
def test_bounds_that_exclude_each_other_name_the_selection_of_least_excess(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    items = small(rng, depth, count=4 if depth == 0 else 2)
    asked = {n: max(b, 0.1) for n, b in between_all(items, rng).items()}
    if least_excess(items, asked) <= 1e-9:
        return
    with pytest.raises(BudgetError) as caught:
        solve(items, asked)
    nearest = caught.value.nearest
    if len(nearest) == 2:
        assert "cannot be kept together" in str(caught.value)
        assert max(nearest[n] / b - 1 for n, b in asked.items()) == pytest.approx(
            least_excess(items, asked), abs=1e-7
        )


def between_all(items: list[Item], rng: np.random.Generator) -> dict[str, float]:
    sums = np.array([[math.fsum(c.costs[n] for c in s) for n in NAMES[:2]] for s in selections(items)])
    low, high = sums.min(0), sums.max(0)
    return dict(zip(NAMES, (low + rng.uniform(0, 0.3, 2) * (high - low)).tolist(), strict=False))


@pytest.mark.parametrize(("bounds", "words"), [
    ({"bytes": -1.0}, "the bound on bytes is -1"),
    ({"bytes": math.nan}, "the bound on bytes is nan"),
    ({"bites": 3.0}, "no choice costs bites"),
])  # fmt: skip
def test_a_bound_that_makes_no_sense_is_refused(bounds: dict[str, float], words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        solve(layers(0, 3, 3), bounds)


@pytest.mark.parametrize("item", [
    Item("l", []),
    Item("l", [Choice("a", -1.0, {})]),
    Item("l", [Choice("a", math.nan, {})]),
    Item("l", [Choice("a", 1.0, {"bytes": -3.0})]),
    Item("l", [Choice("a", 1.0, {}, [Item("m", [])])]),
])  # fmt: skip
def test_a_wrong_item_is_a_fault_of_the_caller(item: Item) -> None:
    with pytest.raises(PassError):
        solve([item], {})
