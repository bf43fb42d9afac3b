import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.assignment.greedy import Rule, assign
from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Item
from lpcompile.errors import BudgetError, PassError


def mixed(saved: list[float], sizes: list[float]) -> list[Item]:
    """FixP4 layers that may become posit4 and then lose less by `saved`."""
    return [
        Item(f"l{i}", [Choice("fixp4", 1.0, {"posit": 0}), Choice("posit4", 1.0 - s, {"posit": n})])
        for i, (s, n) in enumerate(zip(saved, sizes, strict=True))
    ]


COUNTER_EXAMPLE = mixed([0.9, 0.5, 0.4, -0.1, 0.35], [50, 8, 3, 20, 4])
CAP = 0.1 * 85


def posits(picked: dict[str, str]) -> list[int]:
    return [i for i, label in enumerate(picked.values()) if label == "posit4"]


def test_the_papers_rule_misses_the_better_pair() -> None:
    greedy = assign(COUNTER_EXAMPLE, {"posit": CAP}, "paper-greedy", base="fixp4", upgrade="posit4")
    exact = solve(COUNTER_EXAMPLE, {"posit": CAP})
    assert posits(dict(greedy.picked)) == [1]
    assert posits(dict(exact.picked)) == [2, 4]
    assert (5 - greedy.loss, 5 - exact.loss) == pytest.approx((0.5, 0.75))
    assert (greedy.method, exact.method) == ("paper-greedy", "exact")
    assert greedy.lower_bound <= exact.loss


def test_loss_saved_per_cost_finds_the_better_pair_here() -> None:
    found = assign(COUNTER_EXAMPLE, {"posit": CAP}, "ratio-greedy", base="fixp4", upgrade="posit4")
    assert posits(dict(found.picked)) == [2, 4]


@pytest.mark.thorough
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 50)), min_size=1, max_size=12),
    st.floats(0, 1),
    st.sampled_from(["paper-greedy", "ratio-greedy"]),
)
def test_a_rule_is_within_the_bound_never_worse_than_the_base_never_better_than_exact(
    layers: list[tuple[float, int]], eta: float, rule: Rule
) -> None:
    saved, sizes = map(list, zip(*layers, strict=True))
    items = mixed(saved, sizes)
    cap = eta * sum(sizes)
    found = assign(items, {"posit": cap}, rule, base="fixp4", upgrade="posit4")
    exact = solve(items, {"posit": cap})
    assert found.costs["posit"] <= cap
    assert exact.loss <= found.loss * (1 + 1e-12)
    assert found.loss <= math.fsum(i.choices[0].loss for i in items)
    for solution in (found, exact):
        assert all(saved[i] > 0 or items[i].choices[1].loss == 1.0 for i in posits(dict(solution.picked)))


def test_without_a_share_everything_stays_at_the_base() -> None:
    for rule in ("paper-greedy", "ratio-greedy"):
        found = assign(COUNTER_EXAMPLE, {"posit": 0}, rule, base="fixp4", upgrade="posit4")
        assert posits(dict(found.picked)) == []
    assert posits(dict(solve(COUNTER_EXAMPLE, {"posit": 0}).picked)) == []


def test_layers_without_the_upgrade_or_the_base_are_left_alone() -> None:
    items = [
        *COUNTER_EXAMPLE,
        Item("first", [Choice("int8", 0.1, {"posit": 0}), Choice("posit4", 0.0, {"posit": 1})]),
        Item("last", [Choice("fixp4", 0.3, {"posit": 0})]),
    ]
    found = assign(items, {"posit": 1e9}, "paper-greedy", base="fixp4", upgrade="posit4")
    assert (found.picked["first"], found.picked["last"]) == ("int8", "fixp4")


def test_equals_are_taken_in_the_order_of_the_items() -> None:
    items = mixed([0.5, 0.5, 0.5], [4, 4, 4])
    found = assign(items, {"posit": 9}, "paper-greedy", base="fixp4", upgrade="posit4")
    assert posits(dict(found.picked)) == [0, 1]


def test_a_base_that_is_too_dear_is_named() -> None:
    items = [Item("l", [Choice("fixp4", 1.0, {"bytes": 8}), Choice("posit4", 0.5, {"bytes": 8})])]
    with pytest.raises(BudgetError, match="bytes cannot be brought to 7: fixp4 alone is 8") as caught:
        assign(items, {"bytes": 7}, "paper-greedy", base="fixp4", upgrade="posit4")
    assert caught.value.nearest == {"bytes": 8}


def test_members_are_refused() -> None:
    item = Item("a", [Choice("fixp4", 0.0, {"posit": 0}, COUNTER_EXAMPLE)])
    with pytest.raises(PassError, match="without members"):
        assign([item], {}, "paper-greedy", base="fixp4", upgrade="posit4")


def test_on_random_layers_exact_is_better_than_the_rule_more_often_than_not() -> None:
    rng = np.random.default_rng(0)
    better = 0
    for _ in range(20):
        sizes = (10 ** rng.uniform(2, 6, 30)).round().tolist()
        items = mixed(rng.uniform(-0.2, 0.9, 30).tolist(), sizes)
        bound = {"posit": 0.1 * sum(sizes)}
        rule = assign(items, bound, "paper-greedy", base="fixp4", upgrade="posit4")
        better += solve(items, bound).loss < rule.loss * (1 - 1e-9)
    assert better > 10
