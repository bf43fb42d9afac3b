"""Measuring whole assignments."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpcompile.assignment.joint import LEAST_CALLS, best_measured
from lpcompile.assignment.scored import Picks, ScoredCandidate, ScoredLayer, with_picks
from lpcompile.plan import WeightPlan


def layer(name: str, *losses: float, error: float = 0.0, bits: tuple[float, ...] = ()) -> ScoredLayer:
    formats = ("fixp4", "posit4", "nf4")
    return ScoredLayer(
        name,
        10,
        [
            ScoredCandidate(WeightPlan(f), loss, error, {"bits": b})
            for f, loss, b in zip(formats, losses, bits or (4.0,) * len(losses), strict=False)
        ],
    )


def test_the_rival_with_the_least_measured_loss_wins_over_the_predicted_one() -> None:
    layers = [layer("a", 1.0, 2.0)]
    rivals = [with_picks(layers, {"a": 0}, "exact"), with_picks(layers, {"a": 1}, "posit4")]
    found = best_measured(layers, rivals, lambda p: np.full(4, 3.0 - p["a"]), bounds={}, swaps=0)
    assert (found.assignment.name, found.assignment.picks) == ("posit4", {"a": 1})
    assert found.measured == {"exact": 3.0, "posit4": 2.0, "chosen": 2.0}


def test_a_doubtful_choice_is_swapped_where_measuring_shows_a_gain() -> None:
    layers = [layer("a", 1.0, 1.1, error=0.5), layer("b", 1.0, 5.0, error=0.5)]

    def measure(picks: Picks) -> NDArray[np.float64]:
        return np.array([1.0, 1.1, 0.9]) + (0.0 if picks["a"] else 0.3)

    start = with_picks(layers, {"a": 0, "b": 0}, "exact")
    found = best_measured(layers, [start], measure, bounds={}, swaps=8)
    assert found.assignment.picks == {"a": 1, "b": 0}
    assert list(found.swapped) == ["a"]
    assert found.measurements == 2  # b's other choice is no matter of doubt


def test_a_gain_within_its_standard_error_changes_nothing() -> None:
    layers = [layer("a", 1.0, 1.1, error=0.5)]

    def measure(picks: Picks) -> NDArray[np.float64]:
        return np.array([1.0, 1.0]) if picks["a"] == 0 else np.array([0.2, 1.7])

    start = with_picks(layers, {"a": 0}, "exact")
    assert not best_measured(layers, [start], measure, bounds={}, swaps=8).swapped


def test_no_swap_leaves_the_bounds() -> None:
    layers = [layer("a", 1.0, 0.5, error=0.5, bits=(4.0, 8.0))]
    start = with_picks(layers, {"a": 0}, "exact")
    found = best_measured(layers, [start], lambda p: np.full(2, 1.0 - p["a"]), bounds={"bits": 6}, swaps=8)
    assert found.assignment.picks == {"a": 0}


def test_other_rivals_are_told_by_their_measured_loss() -> None:
    layers = [layer("a", 1.0, 2.0, 3.0)]
    rivals = [
        with_picks(layers, {"a": i}, name) for i, name in ((0, "exact"), (1, "posit4"), (2, "nf4"), (0, "x"))
    ]
    found = best_measured(layers, rivals, lambda p: np.full(4, (2.0, 3.0, 1.0)[p["a"]]), bounds={}, swaps=0)
    assert found.assignment.name == "nf4"
    assert [o.name for o in found.others] == ["exact", "posit4"]  # x has the picks of exact


def test_a_change_that_loses_is_measured_on_few_calls_and_one_that_gains_on_all() -> None:
    layers = [layer("a", 1.0, 1.1, error=0.5), layer("b", 1.0, 1.1, error=0.5)]
    spread = np.array([0.0, 0.01, -0.01, 0.0, 0.01, -0.01])
    asked: dict[str, int] = {}

    def measure(picks: Picks) -> NDArray[np.float64]:
        return 1.0 + spread * (1 + picks["a"] + picks["b"]) + 0.3 * picks["b"] - 0.3 * picks["a"]

    def trial(picks: Picks, enough: Callable[[NDArray[np.float64]], bool]) -> NDArray[np.float64]:
        whole = measure(picks)
        known = next((n for n in range(1, len(whole)) if enough(whole[:n])), len(whole))
        asked["".join(k for k, v in sorted(picks.items()) if v)] = known
        return whole[:known]

    start = with_picks(layers, {"a": 0, "b": 0}, "exact")
    found = best_measured(layers, [start], measure, bounds={}, swaps=8, trial=trial)
    assert found.assignment.picks == {"a": 1, "b": 0}
    assert asked["a"] == len(spread)
    assert asked["ab"] == LEAST_CALLS
