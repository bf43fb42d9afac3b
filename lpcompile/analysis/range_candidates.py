"""Ranges that a tie group might take: what every rule says, and these cut or widened. [architecture 6]."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.analysis.affine import Range, affine
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.planned_groups import PlannedGroup
from lpcompile.analysis.ranges import RULES, find_range
from lpcompile.analysis.ties import union
from lpcompile.plan import ActivationPlan

CUTS = (0.7, 0.8, 0.9, 1.15, 1.35)  # of both ends of the range of least squared error
SIDES = (0.7, 1.3)  # of one end alone
STEPS = (0.84, 1.19)  # of the scale, when a range is refined


def candidates(
    group: PlannedGroup, statistics: Mapping[str, TensorStatistics], percentile: float = 99.99
) -> list[ActivationPlan]:
    """Plans of a group in its own width, no two alike: first its own.

    Args:
        group: as it is planned.
        statistics: of its members.
        percentile: of the rule of that name.
    """
    levels = group.plan.code_max + 1
    by_rule = {
        rule: union(
            [find_range(statistics[t], rule, levels=levels, percentile=percentile) for t in group.members]
        )
        for rule in RULES
    }
    full, least = by_rule["minmax"], by_rule["mse"]
    found = [group.plan, *(_planned(group.plan, r, rule) for rule, r in by_rule.items())]
    for low, high, what in _cuts(least):
        found.append(_planned(group.plan, _inside(Range(low, high), full), f"mse {what}"))
    return _unlike(found)


def neighbours(plan: ActivationPlan) -> list[ActivationPlan]:
    """A little narrower, a little wider, and where both signs occur, the zero point one code to either side."""
    found = []
    for factor in STEPS:
        scale = float(np.float32(plan.scale * factor))
        if math.isfinite(scale) and scale >= np.finfo(np.float32).tiny:
            found.append(replace(plan, scale=scale))
    if 0 < plan.zero_point < plan.code_max:
        moved = [plan.zero_point + d for d in (-1, 1)]
        found += [replace(plan, zero_point=z) for z in moved if 0 < z < plan.code_max]
    return found


def _cuts(r: Range) -> list[tuple[float, float, str]]:
    both = [(c * r.low, c * r.high, f"x {c:g}") for c in CUTS]
    if r.low == 0 or r.high == 0:
        return both
    lows = [(c * r.low, r.high, f"low end x {c:g}") for c in SIDES]
    return both + lows + [(r.low, c * r.high, f"high end x {c:g}") for c in SIDES]


def _inside(r: Range, full: Range) -> Range:
    return Range(max(r.low, full.low), min(r.high, full.high))


def _planned(plan: ActivationPlan, r: Range, rule: str) -> ActivationPlan:
    scale, zero = affine(r, plan.code_max + 1)
    return replace(plan, scale=scale, zero_point=zero, rule=rule)


def _unlike(plans: Sequence[ActivationPlan]) -> list[ActivationPlan]:
    """The first of those with the same numbers."""
    found: dict[tuple[float, int], ActivationPlan] = {}
    for plan in plans:
        found.setdefault((plan.scale, plan.zero_point), plan)
    return list(found.values())
