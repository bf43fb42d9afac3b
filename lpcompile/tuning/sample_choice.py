"""Which samples a training learns from: those that rounding changes most, or others as a control.

============  ====================================================================================================
`kl`          divergence of the rounded network's classes from the float model's
`margin`      smallest distance of the two likeliest classes of the rounded network
`entropy`     of the rounded network's classes
`gradient`    norm of the loss's gradient in all that is trained, in its units
`noise`       of the outputs over their signal: for networks without classes
`random`      the seed alone
============  ====================================================================================================

Half of the samples are taken by score, the classes of the float model in turn so that none is left out; the other half
at random from the rest, or a training would see the odd ones alone. [jayasuriya2024 names no metric]
"""

from collections.abc import Mapping

import numpy as np

from lpcompile.analysis.calibration import RunFeeds
from lpcompile.analysis.classes import class_axis, divergence, log_probabilities
from lpcompile.formats.arrays import F64
from lpcompile.tuning.student import parameter_feeds
from lpcompile.tuning.training import Training

SCORES = ("kl", "margin", "entropy", "gradient", "noise", "random")
OF_CLASSES = ("kl", "margin", "entropy")
BATCH = 32  # samples that are scored in one call, where they can be joined


def has_classes(training: Training) -> bool:
    """Whether something that the loss compares gives classes."""
    return any(
        class_axis(a) is not None for a in _targets(training, next(training.samples.batches([0], 1))[0])
    )


def scores(by: str, training: Training, run: RunFeeds, seed: int) -> F64:
    """The score of each training sample, larger where it should rather be taken.

    Args:
        by: one of SCORES.
        training: before its first step.
        run: opens `training.student.compared` of its judged graph.
        seed: of random scores.
    """
    at = training.train
    if by == "random":
        return np.random.default_rng([seed, len(at)]).random(len(at))
    if by == "gradient":
        return np.asarray([training.gradient_norm(i) for i in at])
    shared = parameter_feeds(training.student, training.trained, training.values)
    found = []
    for calls in training.samples.batches(at, BATCH):
        for feeds in calls:
            rounded = run({**shared, **feeds})
            pairs = list(
                zip(
                    _targets(training, feeds),
                    (rounded[t].astype(np.float64) for t in training.student.compared),
                    strict=True,
                )
            )
            each = sum(_score(by, *pair) for pair in pairs)
            found.append(_by_sample(np.asarray(each), training.samples.units(feeds)))
    return np.concatenate(found)


def classes_of(training: Training) -> np.ndarray:
    """The float model's class of each training sample; all 0 where it has none, or one for each of many positions."""
    found = []
    for calls in training.samples.batches(training.train, BATCH):
        for feeds in calls:
            first = _targets(training, feeds)[0]
            count = training.samples.units(feeds)
            single = first.ndim == 2 and len(first) == count
            found.append(first.argmax(-1) if single else np.zeros(count, np.intp))
    return np.concatenate(found)


def chosen(scored: F64, classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of the samples that are taken, ascending.

    Args:
        scored: of each sample.
        classes: of each sample.
        count: of samples; all of them where there are no more.
        seed: of the random half.
    """
    if count >= len(scored):
        return np.arange(len(scored))
    order = np.argsort(-scored, kind="stable")
    turn = np.zeros(len(scored), np.intp)  # which of its class a sample is
    for c in np.unique(classes):
        own = order[classes[order] == c]
        turn[own] = np.arange(len(own))
    first = order[np.argsort(turn[order], kind="stable")][: (count + 1) // 2]
    rest = np.setdiff1d(np.arange(len(scored)), first)
    drawn = np.random.default_rng([seed, count]).choice(rest, count - len(first), replace=False)
    return np.sort(np.concatenate([first, drawn]))


def _targets(training: Training, feeds: Mapping[str, np.ndarray]) -> list[F64]:
    return [feeds[t].astype(np.float64) for t in training.student.targets]


def _score(by: str, wanted: F64, found: F64) -> F64:
    """By position, (N, ...); of arrays with their classes on the last axis."""
    if by == "noise" or class_axis(wanted) is None:
        return np.square(found - wanted) / max(float(np.square(wanted).mean()), 1e-30)
    if by == "kl":
        return divergence(wanted, found)
    log_p = log_probabilities(found)
    if by == "entropy":
        return np.asarray(-(np.exp(log_p) * log_p).sum(-1))
    best = np.sort(np.exp(log_p), axis=-1)
    return np.asarray(best[..., -2] - best[..., -1])


def _by_sample(terms: F64, count: int) -> F64:
    """Mean over what a sample has."""
    return np.asarray(terms.reshape(count, -1).mean(axis=1))
