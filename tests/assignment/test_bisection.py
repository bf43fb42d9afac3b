"""The least budget by few measurements: against crossings that are known."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lpcompile.assignment.bisection import Bisection, Evaluation, Prediction, fewest
from lpcompile.assignment.budget import excess, margin

RESOLUTION = 0.05
WIDTHS = np.linspace(4.05, 8.1, 40)
CURVE = Prediction(WIDTHS.tolist(), (1e-1 * 4.0 ** -(WIDTHS - 4)).tolist())


def found(
    measure: Callable[[float], float],
    *,
    high: float = 33.0,
    slope: float | None = None,
    most: int = 12,
    by_chance: Sequence[str] = (),
) -> Bisection:
    """A search of one bound over CURVE."""

    def evaluate(budget: float) -> Evaluation:
        used = min(budget, CURVE.budgets[-1])
        assert used >= CURVE.budgets[0], "nothing is so small"
        return Evaluation(budget, used, {"it": measure(used)})

    slopes = {} if slope is None else {"it": slope}
    return fewest(
        evaluate,
        2.0,
        high,
        lambda: CURVE,
        first=4.5,
        slopes=slopes,
        resolution=RESOLUTION,
        most_evaluations=most,
        by_chance=by_chance,
    )


def linear(crossing: float, floor: float) -> Callable[[float], float]:
    """Excess that is linear in the predicted loss and 1 at a width."""
    return lambda width: floor + (1 - floor) * CURVE.loss(width) / CURVE.loss(crossing)


@pytest.mark.parametrize("floor", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("crossing", [4.06, 4.3, 4.77, 5.5, 6.9, 8.0])
def test_the_least_budget_is_found_to_the_resolution_in_few_measurements(
    crossing: float, floor: float
) -> None:
    result = found(linear(crossing, floor))
    assert result.result is not None
    assert crossing - 1e-9 <= result.result.used <= crossing + RESOLUTION + 1e-3
    assert len(result.evaluations) <= 6
    assert result.bracket[0] <= crossing


@pytest.mark.parametrize("power", [0.5, 2.0])
@pytest.mark.parametrize("crossing", [4.2, 5.0, 7.0])
def test_a_measure_that_is_not_linear_is_found_too(crossing: float, power: float) -> None:
    result = found(lambda w: (CURVE.loss(w) / CURVE.loss(crossing)) ** power)
    assert result.result is not None
    assert crossing - 1e-9 <= result.result.used <= crossing + RESOLUTION + 1e-3
    assert len(result.evaluations) <= 9


def test_a_known_slope_makes_the_first_guess() -> None:
    slope = 0.9 / CURVE.loss(5.5)
    result = found(linear(5.5, 0.1), slope=slope)
    assert result.evaluations[1].budget == pytest.approx(5.5, abs=RESOLUTION)
    assert len(result.evaluations) <= 4


def test_the_least_of_all_is_tried_where_everything_keeps_the_bound() -> None:
    result = found(lambda _: 0.3)
    assert result.result is not None
    assert result.result.used == pytest.approx(CURVE.budgets[0], abs=1e-4)
    assert len(result.evaluations) <= 3


def test_a_measure_in_steps_with_noise_ends_at_a_budget_that_was_measured() -> None:
    """As an accuracy of 200 images: multiples of 1/200, up and down."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = dict(zip(range(1000), rng.normal(0, 0.3, 1000), strict=True))

        def measure(width: float, noise: dict[int, float] = noise) -> float:
            return round(0.02 * CURVE.loss(width) * 4000 + noise[int(width * 100)])

        result = found(measure, most=10)
        assert result.result is None or result.result in result.evaluations
        assert len(result.evaluations) <= 10
        if result.result is not None:
            assert result.result.ok
            assert all(e.used >= result.result.used for e in result.evaluations if e.ok)


def test_the_largest_is_tried_first_and_its_failure_ends_the_search() -> None:
    result = found(linear(6.0, 0.0), high=5.0)
    assert result.result is None
    assert [e.budget for e in result.evaluations] == [5.0]


def test_where_the_largest_misses_by_chance_the_usual_one_may_keep_the_bound() -> None:
    """A score of few samples is not monotone in the bits."""

    def steps(second: float, widest: float = 1.6) -> Callable[[float], float]:
        return lambda width: widest if width > 6 else second if width > 4.3 else 3.0

    result = found(steps(0.5), by_chance=("it",))
    assert result.result is not None
    assert 4.3 < result.result.used <= 4.3 + RESOLUTION + 1e-3
    missed = found(steps(1.2), by_chance=("it",))
    assert (missed.result, [e.budget for e in missed.evaluations]) == (None, [33.0, 4.5])
    for other in (found(steps(0.5)), found(steps(0.5, widest=2.1), by_chance=("it",))):
        assert (other.result, [e.budget for e in other.evaluations]) == (None, [33.0])


def test_what_is_no_number_keeps_no_bound() -> None:
    assert not Evaluation(5.0, 5.0, {"it": math.nan}).ok
    result = found(lambda w: math.nan if w < 6 else 0.5)
    assert result.result is not None
    assert 6 <= result.result.used <= 6 + RESOLUTION + 1e-3


def test_running_out_of_measurements_is_noted() -> None:
    short = found(lambda w: 0.5 if w > 6.3 else 2.0, most=3)
    assert any("stopped after 3 evaluations" in n for n in short.notes)
    low, high = short.bracket
    assert low < 6.3 < high


def test_what_is_known_is_not_measured_again() -> None:
    """As when a bound is asked for once more with something to spare."""
    tried = list[float]()

    def evaluate(budget: float, crossing: float) -> Evaluation:
        tried.append(budget)
        used = min(budget, 8.1)
        return Evaluation(budget, used, {"it": linear(crossing, 0.1)(used)})

    def search(crossing: float, known: Sequence[Evaluation]) -> Bisection:
        return fewest(
            lambda b: evaluate(b, crossing),
            2.0,
            33.0,
            lambda: CURVE,
            first=4.5,
            known=known,
            resolution=RESOLUTION,
            most_evaluations=10,
        )

    first = search(5.0, ())
    measured = len(tried)
    again = [evaluate(e.budget, 5.1) for e in first.evaluations]
    del tried[measured:]
    second = search(5.1, again)
    assert second.result is not None
    assert 5.1 - 1e-9 <= second.result.used <= 5.1 + RESOLUTION + 1e-3
    assert len(tried) - measured <= 3
    assert len(set(tried)) == len(tried)
    kept = [e.used for e in (*again, *second.evaluations) if e.ok]
    assert second.result.used == min(kept)


def test_several_bounds_are_all_kept() -> None:
    curves = {"a": linear(4.6, 0.3), "b": linear(5.4, 0.1)}
    result = fewest(
        lambda b: Evaluation(b, min(b, 8.1), {k: f(min(b, 8.1)) for k, f in curves.items()}),
        2.0,
        33.0,
        lambda: CURVE,
        first=4.5,
        resolution=RESOLUTION,
        most_evaluations=10,
    )
    assert result.result is not None
    assert 5.4 - 1e-9 <= result.result.used <= 5.4 + RESOLUTION + 1e-3


@pytest.mark.parametrize("wrong", [(5.0, 4.0, 0.1, 5), (4.0, 5.0, 0.0, 5), (4.0, 5.0, 0.1, 1)])
def test_a_range_without_sense_is_refused(wrong: tuple[float, float, float, int]) -> None:
    low, high, resolution, most = wrong
    with pytest.raises(ValueError, match="evaluations"):
        fewest(
            lambda b: Evaluation(b, b, {}),
            low,
            high,
            lambda: CURVE,
            first=4.5,
            resolution=resolution,
            most_evaluations=most,
        )


@pytest.mark.parametrize(
    ("name", "bound", "values"),
    [
        ("sqnr-db", 30.0, (10, 29.99, 30.0, 30.01, 60, math.inf)),
        ("agreement", 0.99, (0.0, 0.98, 0.99, 0.995, 1.0)),
        ("agreement", 1.0, (0.5, 0.999, 1.0)),
        ("metric-drop", 0.005, (-1.0, 0.0, 0.00499, 0.005, 0.0051, 3.0)),
        ("metric-drop", 0.0, (-0.1, 0.0, 0.1)),
        ("metric-drop", -0.01, (-0.1, -0.01, -0.009, 0.1)),
    ],
)
def test_the_excess_is_at_most_one_exactly_where_the_bound_is_kept(
    name: str, bound: float, values: tuple[float, ...]
) -> None:
    for value in values:
        assert (excess(name, value, bound) <= 1) == (margin(name, value, bound) >= 0), value
    worse = [excess(name, v, bound) for v in values]
    assert worse == sorted(worse, reverse=name != "metric-drop")


def test_a_difference_of_floats_meets_its_bound() -> None:
    """One of 200 samples lost: 0.9 - 0.895 is a little more than 0.005."""
    drop = 0.885 - 0.88
    assert drop > 0.005
    assert excess("metric-drop", drop, 0.005) <= 1
    assert excess("metric-drop", 0.00501, 0.005) > 1


def test_what_cannot_be_measured_keeps_no_bound() -> None:
    assert excess("agreement", None, 0.9) == math.inf
    assert excess("sqnr-db", math.nan, 30.0) == math.inf
