import math
from collections.abc import Callable

import pytest

from lpcompile.assignment.bisection import fewest
from lpcompile.errors import BudgetError


def drop(bits: float) -> float:
    """A loss that falls fourfold a bit, as quantisation noise does."""
    return float(4.0**-bits)


def test_the_least_budget_is_found_in_few_measurements() -> None:
    found = fewest(drop, 2.0, 8.0, resolution=0.05, bound=drop(4.37))
    assert found.bracket[0] < 4.37 <= found.result <= 4.37 + 0.05
    assert len(found.evaluations) <= 6
    assert found.notes == ()


@pytest.mark.parametrize("edge", [2.01, 3.3, 5.0, 7.99])
@pytest.mark.parametrize("shape", [
    lambda b, e: b >= e,
    lambda b, e: (e - b) ** 3,
    lambda b, e: 0.0 if b >= e else 1.0,
    lambda b, e: 1e9 if b < e else -1.0,
    lambda b, e: math.nan if b < e else 0.0,
])  # fmt: skip
def test_any_monotonic_answer_is_bracketed(edge: float, shape: Callable[[float, float], float]) -> None:
    found = fewest(lambda b: shape(b, edge), 2.0, 8.0, resolution=0.05, most_evaluations=40)
    assert edge <= found.result <= edge + 0.05 + 1e-9
    assert found.bracket[0] < edge
    assert all(e.ok == (e.budget >= edge) for e in found.evaluations)
    budgets = [e.budget for e in found.evaluations]
    assert len(budgets) == len(set(budgets))


def test_a_step_function_needs_about_as_many_as_halving() -> None:
    found = fewest(
        lambda b: 0.01 if b < 4.2 else 0.001, 2.0, 8.0, resolution=0.1, bound=0.005, most_evaluations=30
    )
    assert len(found.evaluations) <= 12


def test_a_low_end_that_suffices_ends_it() -> None:
    found = fewest(drop, 2.0, 8.0, resolution=0.1, bound=1.0)
    assert (found.result, len(found.evaluations)) == (2.0, 2)


def test_a_high_end_that_does_not_suffice_names_the_nearest() -> None:
    with pytest.raises(BudgetError, match=r"even avg-bits=8 gives 1.52588e-05 .* of 1e-09") as caught:
        fewest(drop, 2.0, 8.0, resolution=0.1, bound=1e-9, name="avg-bits")
    assert caught.value.nearest == {"avg-bits": 8.0, "value": drop(8.0)}
    with pytest.raises(BudgetError, match="even budget=2 does not keep the bound"):
        fewest(lambda _: False, 2.0, 8.0, resolution=0.1)


def test_measurements_that_run_out_are_told() -> None:
    found = fewest(lambda b: b >= 5.1, 2.0, 8.0, resolution=1e-6, most_evaluations=6)
    assert len(found.evaluations) == 6
    assert found.result >= 5.1 > found.bracket[0]
    assert "stopped after 6 measurements" in found.notes[0]


def test_a_larger_budget_that_does_worse_is_told() -> None:
    found = fewest(lambda b: 2.0 if b < 5 else 0.5 + 0.01 * b, 2.0, 8.0, resolution=0.5, bound=1.0)
    assert found.result >= 5
    assert any("not monotonic" in n for n in found.notes)
    low = fewest(lambda b: b < 3, 2.0, 8.0, resolution=0.5)
    assert low.result == 2.0
    assert any("not monotonic" in n for n in low.notes)


def test_a_senseless_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 8"):
        fewest(drop, 8.0, 2.0, resolution=0.1)
