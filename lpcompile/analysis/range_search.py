"""Ranges of activations chosen by the output of the model.

First every candidate of every tie group is scored by the projections of its rounding errors on the gradients of the
outputs, <g_i, Q(a_i) - a_i>, which know that errors of one sample add up, within a tensor and between tensors. Then
the network runs with all activations rounded, and one range after the other is moved, the most costly first, where
that lowers the noise of the outputs by more than its standard error. [architecture 5, 6, 7]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.gain import Gain
from lpcompile.analysis.range_candidates import neighbours
from lpcompile.analysis.scores import F64
from lpcompile.plan import ActivationPlan

Plans = Sequence[ActivationPlan]
Noise = Callable[[Plans], F64]  # noise power over signal power of each sample
Rows = NDArray[np.signedinteger[Any]]
LEAST_GAIN = 1e-3  # of the noise; a move that gains less is not worth a run
ERRORS = 1.0  # standard errors that a gain must exceed
SHARES = (0.0, 0.25)  # of the cross terms between groups; a few samples do not tell more of them
ROUNDS = 20


@dataclass(frozen=True)
class Task:
    """What is searched.

    Attributes:
        start: the plan of each of G groups.
        choices: candidates of each group, its own first.
        projections: of each group's candidates, (samples, draws, M); empty where there are no gradients.
        least_scales: what the scale of a group may not fall below, (G,).
        runs: measurements at most.
        known: plans of all groups that are measured beside what the projections say.
    """

    start: Plans
    choices: Sequence[Plans]
    projections: Sequence[F64]
    least_scales: Sequence[float]
    runs: int
    known: Sequence[Plans] = ()

    def of_samples(self, rows: Rows) -> "Task":
        """The same with some of the samples."""
        kept = [p[rows] if len(p) else p for p in self.projections]
        return Task(self.start, self.choices, kept, self.least_scales, self.runs)

    @property
    def order(self) -> list[int]:
        """Groups, the most costly first."""
        if not self.projections:
            return list(range(len(self.start)))
        costs = [-float(np.square(p[:, :, 0]).mean()) if len(p) else 0.0 for p in self.projections]
        return [int(i) for i in np.argsort(costs, kind="stable")]

    def rivals(self) -> list[Plans]:
        """What the projections say, and what is known."""
        if not self.projections:
            return list(self.known)
        found = [joint_picks(self.projections, share) for share in SHARES]
        return [[c[m] for c, m in zip(self.choices, picks, strict=True)] for picks in found] + list(
            self.known
        )


@dataclass
class Found:
    """Ranges and what they were found with.

    Attributes:
        plans: one a group.
        noise: of each sample that they were found on.
        runs: how often the network was measured.
    """

    plans: Plans
    noise: F64
    runs: int = 1


def joint_picks(projections: Sequence[F64], share: float) -> list[int]:
    """One candidate a group: the least E (sum_g p_g)^2, by coordinate descent.

    Args:
        projections: of each group's candidates, (samples, draws, M); the first is taken where others are no better.
        share: of the cross terms that counts; 0 takes each group alone.
    """
    alone = [_gains(np.square(p)) for p in projections]
    picks = [int(np.argmin(a)) for a in alone]
    alive = [g for g, p in enumerate(projections) if len(p)]
    total = sum(projections[g][:, :, picks[g]] for g in alive)
    for _ in range(ROUNDS if share > 0 and alive else 0):
        before = list(picks)
        for g in alive:
            p = projections[g]
            others = total - p[:, :, picks[g]]
            losses = _gains(np.square(p) + 2 * share * p * others[:, :, None])
            picks[g] = int(np.argmin(losses))
            total = others + p[:, :, picks[g]]
        if picks == before:
            break
    return picks


def _gains(terms: F64) -> F64:
    """Mean rise of each of M alternatives over the first, (M,); one that is not clearly lower counts as a rise."""
    if not len(terms):
        return np.zeros(terms.shape[2])
    rise = (terms - terms[:, :, :1]).mean(1)
    mean, error = rise.mean(0), rise.std(0) / np.sqrt(max(1, len(rise) - 1))
    return np.asarray(np.where((mean < 0) & (mean < -ERRORS * error), mean, np.abs(mean)))


def search(task: Task, noise: Noise, step: Callable[[int], None] = lambda _done: None) -> Found:
    """The best of the start and its rivals, then moved range by range while that lowers the noise.

    Args:
        task: groups and their candidates.
        noise: measures plans, on the samples of the task.
        step: called with the number of measurements done.
    """
    best = Found(list(task.start), noise(task.start))

    def better(plans: Plans) -> bool:
        if best.runs >= task.runs:
            return False
        level = noise(plans)
        best.runs += 1
        step(best.runs)
        if not lowers(best.noise, level):
            return False
        best.plans, best.noise = list(plans), level
        return True

    rivals = task.rivals()[: task.runs - 1]
    levels = [noise(plans) for plans in rivals]
    if levels:
        least = min(range(len(levels)), key=lambda i: _or_inf(levels[i].mean()))
        best.runs += len(levels)
        step(best.runs)
        if lowers(best.noise, levels[least]):
            best.plans, best.noise = list(rivals[least]), levels[least]
    order = task.order
    for _ in range(ROUNDS):
        gained = False
        for g in order:
            for plan in neighbours(best.plans[g]):
                if plan.scale < task.least_scales[g]:
                    continue
                if better([plan if i == g else p for i, p in enumerate(best.plans)]):
                    gained = True
                    break
        if not gained or best.runs >= task.runs:
            break
    return best


def _or_inf(level: float) -> float:
    return float(level) if np.isfinite(level) else float("inf")


def lowers(before: F64, after: F64) -> bool:
    """Whether noise falls by more than chance, sample by sample."""
    gain = before - after
    if not np.isfinite(after).all():
        return False
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > max(LEAST_GAIN * before.mean(), ERRORS * error))


def cross_validated(
    task: Task,
    noises: tuple[Noise, Noise],
    rows: tuple[Rows, Rows],
    step: Callable[[int], None] = lambda _done: None,
) -> tuple[Gain, list[Plans]]:
    """Ranges found on one half of the samples, judged on the other, both ways.

    Args:
        task: of all samples.
        noises: measure plans on each half.
        rows: samples of each half.
        step: called with the number of measurements done.

    Returns:
        What they gain, and the ranges of either half.
    """
    before, after, done = [], [], 0
    plans: list[Plans] = []
    for own, other in ((0, 1), (1, 0)):
        found = search(task.of_samples(rows[own]), noises[own], partial(_step, step, done))
        done += found.runs
        before.append(noises[other](task.start))
        after.append(noises[other](found.plans))
        plans.append(found.plans)
    return Gain.of(np.concatenate(before), np.concatenate(after)), plans


def _step(step: Callable[[int], None], before: int, done: int) -> None:
    step(before + done)
