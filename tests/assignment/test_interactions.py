"""What candidates of several layers lose together."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.assignment.interactions import SHRINKAGES, Interactions, joint_loss, refine
from lpcompile.assignment.scored import ScoredCandidate, ScoredLayer
from lpcompile.plan import WeightPlan


def problem(seed: int, layers: int = 3, candidates: int = 3, samples: int = 40):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(samples, 2, 1))
    projections = {
        f"l{i}": rng.normal(size=(samples, 2, candidates)) + shared * rng.normal(size=candidates)
        for i in range(layers)
    }
    made = [
        ScoredLayer(
            name,
            10,
            [
                ScoredCandidate(
                    WeightPlan(f"int{m + 2}"),
                    float(np.square(p[:, :, m]).mean() / 2),
                    0.0,
                    {"bits": float(m + 1)},
                )
                for m in range(candidates)
            ],
        )
        for name, p in projections.items()
    ]
    return made, projections


def test_errors_that_cancel_are_found() -> None:
    """Two layers whose errors are opposite lose nothing together, though each alone is the worse choice."""
    rng = np.random.default_rng(0)
    noise, other = rng.normal(size=(200, 1, 1)), rng.normal(size=(200, 1, 2)) * 0.9
    projections = {
        "a": np.concatenate([other[:, :, :1], noise], axis=2),
        "b": np.concatenate([other[:, :, 1:], -noise], axis=2),
    }
    layers = [
        ScoredLayer(n, 10, [ScoredCandidate(WeightPlan(f), 0.0, 0.0, {}) for f in ("int4", "nf4")])
        for n in projections
    ]
    found = refine(layers, projections, {"a": 0, "b": 0}, {})
    assert found.picks == {"a": 1, "b": 1}
    assert found.loss == pytest.approx(0, abs=1e-12)
    assert found.shrinkage > 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(3.0, 9.0))
def test_a_refined_selection_keeps_the_bounds(seed: int, bound: float) -> None:
    layers, projections = problem(seed)
    start = {layer.name: 0 for layer in layers}
    found = refine(layers, projections, start, {"bits": bound})
    assert sum(layer.candidates[found.picks[layer.name]].costs["bits"] for layer in layers) <= bound + 1e-6
    assert found.loss == pytest.approx(joint_loss(projections, found.picks))
    assert found.shrinkage in SHRINKAGES


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_best_of_all_selections(seed: int) -> None:
    """Of the loss with cross terms shrunk as far as the samples' halves agreed."""
    layers, projections = problem(seed, samples=400)
    found = refine(layers, projections, {layer.name: 0 for layer in layers}, {})

    def shrunk(picks: dict[str, int]) -> float:
        alone = sum(float(np.square(p[:, :, picks[n]]).mean() / 2) for n, p in projections.items())
        return found.shrinkage * joint_loss(projections, picks) + (1 - found.shrinkage) * alone

    best = min(shrunk(dict(zip(projections, c, strict=True))) for c in itertools.product(range(3), repeat=3))
    assert shrunk(dict(found.picks)) <= best * (1 + 1e-5)


def test_moves_are_predicted_best_first_and_keep_the_bounds() -> None:
    layers, projections = problem(3)
    interactions = Interactions(layers, projections, {"bits": 6.0})
    start = interactions.refined({layer.name: 0 for layer in layers}).picks
    moves = interactions.moves(start, 20)
    assert moves
    losses = []
    for move in moves:
        picks = {**start, **move}
        assert picks != start
        assert sum(layer.candidates[picks[layer.name]].costs["bits"] for layer in layers) <= 6.0
        alone = sum(float(np.square(p[:, :, picks[n]]).mean() / 2) for n, p in projections.items())
        a = interactions.shrinkage
        losses.append(a * joint_loss(projections, picks) + (1 - a) * alone)
    assert losses == sorted(losses)


def test_cross_terms_are_believed_less_where_there_are_none() -> None:
    """Mean shrinkage over seeds: independent errors of few samples against errors with a large common part."""

    def mean_shrinkage(common: float) -> float:
        found = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            shared = rng.normal(size=(8, 1, 1)) * common
            projections = {
                f"l{i}": rng.normal(size=(8, 1, 4)) + shared * rng.choice([-1.0, 1.0], 4) for i in range(6)
            }
            layers = [
                ScoredLayer(
                    n, 10, [ScoredCandidate(WeightPlan(f"int{m + 2}"), 0.0, 0.0, {}) for m in range(4)]
                )
                for n in projections
            ]
            found.append(refine(layers, projections, dict.fromkeys(projections, 0), {}).shrinkage)
        return float(np.mean(found))

    assert mean_shrinkage(0.0) < mean_shrinkage(3.0)


def test_layers_that_nothing_flows_back_to_change_nothing() -> None:
    layers, projections = problem(0)
    projections["l1"] = np.zeros((0, 1, 3))
    found = refine(layers, projections, {layer.name: 1 for layer in layers}, {"bits": 6.0})
    assert found.picks["l1"] in range(3)
    assert np.isfinite(found.loss)
