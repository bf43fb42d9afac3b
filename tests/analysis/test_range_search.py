"""The search of ranges: choices against brute force, moves against a noise that is known in closed form."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.analysis import range_search
from lpcompile.analysis.gain import Gain
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.planned_groups import PlannedGroup
from lpcompile.analysis.range_candidates import candidates, neighbours
from lpcompile.analysis.range_search import Plans, Task, cross_validated, joint_picks, lowers, search
from lpcompile.plan import ActivationPlan

F64 = NDArray[np.float64]
START = ActivationPlan("uint4", 1.0, 7, "t", "mse")


def projections(seed: int, groups: int = 3, choices: int = 4) -> list[F64]:
    """Errors that partly flow together, over few samples."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(40, 2, 1))
    return [
        rng.uniform(0.5, 2, choices) * (rng.normal(size=(40, 2, choices)) + rng.normal() * common)
        for _ in range(groups)
    ]


def loss(p: list[F64], picks: tuple[int, ...]) -> float:
    return float(np.square(sum(q[:, :, m] for q, m in zip(p, picks, strict=True))).mean())


@given(st.integers(0, 1000))
def test_alone_every_group_takes_its_least(seed: int) -> None:
    p = projections(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_search, "ERRORS", 0.0)
        assert joint_picks(p, 0.0) == [int(np.argmin(np.square(q).mean((0, 1)))) for q in p]


@given(st.integers(0, 1000))
def test_together_no_single_change_is_better(seed: int) -> None:
    p = projections(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_search, "ERRORS", 0.0)
        found = tuple(joint_picks(p, 1.0))
    changed = [(*found[:g], m, *found[g + 1 :]) for g in range(3) for m in range(4)]
    assert loss(p, found) <= min(loss(p, c) for c in changed) * (1 + 1e-9)


def test_together_is_nearly_the_best_of_all_choices() -> None:
    ratios = []
    for seed in range(30):
        p = projections(seed)
        best = min(loss(p, c) for c in itertools.product(range(4), repeat=3))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(range_search, "ERRORS", 0.0)
            ratios.append(loss(p, tuple(joint_picks(p, 1.0))) / best)
    assert np.mean(ratios) < 1.05


def test_what_is_no_clear_gain_leaves_a_group_as_it_is() -> None:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(40, 2, 1)) * np.array([1.0, 0.9999]) + 0.5 * rng.normal(size=(40, 2, 2))
    assert abs(np.square(p).mean((0, 1)) @ [1, -1]) < 0.2
    assert joint_picks([p - p + p[:, :, :1]], 0.0) == [0]


def test_a_group_that_nothing_flows_back_to_keeps_its_own() -> None:
    p = [np.zeros((0, 1, 3)), projections(1)[0]]
    assert joint_picks(p, 0.25)[0] == 0


def parabola(best: float, samples: int = 20) -> range_search.Noise:
    """Noise of one group, least where its scale is `best`; all samples alike."""
    return lambda plans: np.full(samples, 1e-3 + sum(np.log(p.scale / best) ** 2 for p in plans))


def task(groups: int = 1, runs: int = 100, least: float = 0.0, samples: int = 20) -> Task:
    wide = ActivationPlan("uint4", 1.6, 7, "t", "mse x 1.6")
    none = [np.ones((samples, 1, 2))] * groups
    return Task([START] * groups, [[START, wide]] * groups, none, [least] * groups, runs)


@pytest.mark.parametrize("best", [0.4, 1.0, 2.3])
def test_moves_end_next_to_the_least_noise(best: float) -> None:
    found = search(task(3), parabola(best))
    grid = np.exp(np.linspace(np.log(0.2), np.log(4), 200))
    least = grid[np.argmin(np.log(grid / best) ** 2)]  # brute force
    for plan in found.plans:
        assert abs(np.log(plan.scale / least)) < np.log(1.19) / 2 * 1.1
    assert found.noise.mean() <= parabola(best)(task(3).start).mean()


def test_runs_are_kept_and_told() -> None:
    told: list[int] = []
    found = search(task(3, runs=5), parabola(0.2), told.append)
    assert found.runs == 5
    assert told == [3, 4, 5]


def test_what_is_known_is_measured_first_and_the_least_is_gone_on_from() -> None:
    known = [[ActivationPlan("uint4", s, 7, "t", "mse")] for s in (0.5, 2.05, 3.0)]
    found = search(replace(task(runs=6), known=known), parabola(2.05))
    assert found.plans == known[1]


def test_no_scale_falls_below_what_a_bias_needs() -> None:
    assert search(task(2, least=0.9), parabola(0.3)).plans == [START, START]


def test_a_gain_must_exceed_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    before = np.ones(100)
    assert lowers(before, before - 0.05)
    assert not lowers(before, before - 0.0005)  # not worth it
    assert not lowers(before, before - 0.05 + rng.normal(size=100))
    assert not lowers(before, np.full(100, np.nan))
    assert lowers(np.ones(1), np.full(1, 0.5))


def test_the_standard_error_of_a_gain_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(1)

    def draw() -> Gain:
        base = rng.gamma(2.0, size=200)
        return Gain.of(base, base * 0.8 * rng.lognormal(0, 0.3, 200))

    drawn = [draw() for _ in range(400)]
    assert np.mean([g.standard_error_db for g in drawn]) == pytest.approx(
        np.std([g.db for g in drawn]), rel=0.1
    )
    assert np.mean([g.db for g in drawn]) == pytest.approx(-10 * np.log10(0.8 * np.exp(0.045)), abs=0.02)


def test_gains_without_noise_are_none() -> None:
    assert Gain.of(np.zeros(4), np.ones(4)).db == 0.0
    assert Gain.of(np.ones(4), np.full(4, np.inf)).db == float("-inf")


def test_cross_validation_sees_what_only_one_half_likes() -> None:
    rows = (np.arange(0, 20, 2), np.arange(1, 20, 2))
    alike, halves = cross_validated(task(), (parabola(2.0, 10), parabola(2.0, 10)), rows)
    apart, _ = cross_validated(task(), (parabola(2.0, 10), parabola(0.5, 10)), rows)
    assert alike.db > 10
    assert all(abs(np.log(plans[0].scale / 2.0)) < 0.1 for plans in halves)
    assert apart.db < -3


# candidates


def group(kind: str, fmt: str = "uint4") -> tuple[PlannedGroup, dict[str, TensorStatistics]]:
    x = np.random.default_rng(0).laplace(size=4000).astype(np.float32)
    statistics = TensorStatistics()
    statistics.update(np.maximum(x, 0) if kind == "relu" else x)
    plan = ActivationPlan(fmt, 0.123, 0 if kind == "relu" else 7, "t", "mse")
    return PlannedGroup("t", ("t",), ("t",), plan), {"t": statistics}


@pytest.mark.parametrize("kind", ["relu", "both signs"])
@pytest.mark.parametrize("fmt", ["uint4", "uint8"])
def test_candidates_are_different_plans_of_the_same_width(kind: str, fmt: str) -> None:
    of, statistics = group(kind, fmt)
    found = candidates(of, statistics)
    assert found[0] == of.plan
    assert len({(p.scale, p.zero_point) for p in found}) == len(found) > 3
    assert {p.format for p in found} == {fmt}
    widest = max(p.scale for p in found[1:])
    full = (max(0.0, statistics["t"].high) - statistics["t"].low) / of.plan.code_max
    assert widest <= full * 1.0001
    if kind == "relu":
        assert all(p.zero_point == 0 for p in found)  # all codes are for what is there


def test_neighbours_keep_zero_where_it_is_on_one_sided_ranges() -> None:
    one, both = group("relu")[0].plan, group("both signs")[0].plan
    assert [n.zero_point for n in neighbours(one)] == [0, 0]
    assert [n.zero_point for n in neighbours(both)] == [7, 7, 6, 8]


def shifted(plans: Plans) -> float:
    return float(sum(p.zero_point for p in plans))


def test_the_zero_point_moves_where_that_pays() -> None:
    found = search(
        task(), lambda plans: np.full(4, 1 + abs(shifted(plans) - 4) + np.log(plans[0].scale) ** 2)
    )
    assert found.plans[0].zero_point == 4
