"""Scores of samples against their definitions by hand, and who is taken."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lpcompile.tuning.batches import Samples
from lpcompile.tuning.sample_choice import chosen, classes_of, has_classes, scores
from lpcompile.tuning.training import Training
from tests.support import Array

RNG = np.random.default_rng(8)
WANTED, FOUND = (RNG.normal(size=(40, 5)).astype(np.float32) for _ in range(2))


def training(wanted: Array, at: Array, *, joined: bool = True) -> Training:
    """What scores look at: samples with a number each, their targets, and no parameters."""
    numbers = np.arange(len(wanted))
    each = [{"x": numbers[i : i + 8], "t": wanted[i : i + 8]} for i in range(0, len(wanted), 8)]
    if not joined:
        each = [{"x": numbers[i : i + 1], "t": wanted[i : i + 1]} for i in range(len(wanted))]
    student = SimpleNamespace(targets=["t"], compared=("y",), inputs={})
    found = SimpleNamespace(
        train=at,
        samples=Samples(each, joined=joined),
        student=student,
        trained=[],
        values={},
        gradient_norm=lambda i: float(i) / 2,
    )
    return cast(Training, found)


def run(feeds: Any) -> dict[str, Array]:
    return {"y": FOUND[feeds["x"]]}


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64))
    return np.asarray(e / e.sum(-1, keepdims=True))


P, Q = softmax(WANTED), softmax(FOUND)
BY_HAND = {
    "kl": (P * np.log(P / Q)).sum(1),
    "margin": np.sort(Q, 1)[:, -2] - np.sort(Q, 1)[:, -1],
    "entropy": -(Q * np.log(Q)).sum(1),
    "gradient": np.arange(40) / 2,
}


@pytest.mark.parametrize("by", BY_HAND)
@pytest.mark.parametrize("joined", [True, False])
def test_scores_are_their_definitions(by: str, joined: bool) -> None:
    at = np.array([3, 0, 39, 17, 20])
    found = scores(by, training(WANTED, at, joined=joined), run, 0)
    np.testing.assert_allclose(found, BY_HAND[by][at], rtol=1e-5)


def test_noise_is_that_over_the_signal_of_the_batch() -> None:
    at = np.arange(5)
    found = scores("noise", training(WANTED, at), run, 0)
    wide = WANTED[at].astype(np.float64)
    expected = np.square(FOUND[at] - wide).mean(1) / np.square(wide).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_random_scores_are_of_the_seed() -> None:
    each = [scores("random", training(WANTED, np.arange(40)), run, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(each[0], each[1])
    assert (each[0] != each[2]).any()


def test_positions_of_a_sample_count_together() -> None:
    wanted, found = (RNG.normal(size=(4, 3, 5)).astype(np.float32) for _ in range(2))
    t = training(wanted, np.arange(4))
    got = scores("kl", t, lambda feeds: {"y": found[feeds["x"]]}, 0)
    p, q = softmax(wanted), softmax(found)
    np.testing.assert_allclose(got, (p * np.log(p / q)).sum(-1).mean(1), rtol=1e-5)
    assert not classes_of(t).any(), "many positions have no one class"


def test_classes_are_those_of_the_float_model() -> None:
    t = training(WANTED, np.arange(40))
    assert has_classes(t)
    np.testing.assert_array_equal(classes_of(t), WANTED.argmax(1))
    assert not has_classes(training(WANTED[:, :1], np.arange(40)))


def test_half_is_taken_by_score_in_turns_of_the_classes() -> None:
    scored = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.0])
    classes = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    taken = chosen(scored, classes, 6, 0)
    assert {0, 7, 9} <= set(taken), "the best of each class"
    assert len(set(taken)) == 6
    np.testing.assert_array_equal(taken, np.sort(taken))
    np.testing.assert_array_equal(taken, chosen(scored, classes, 6, 0))
    others = {tuple(chosen(scored, classes, 6, seed)) for seed in range(20)}
    assert len(others) > 3, "the other half is drawn"
    np.testing.assert_array_equal(chosen(scored, classes, 10, 0), np.arange(10))
