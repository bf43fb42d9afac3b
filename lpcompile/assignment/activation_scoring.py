"""What 4 bits instead of 8 cost a tie group of activations, in the unit and with the loss of the weights' scores.

1/2 E_i <delta_i, Q(a_i) - a_i>^2 at every member where errors arise, in 4 bits less that in 8 bits, summed over these
members: once a group, because they change their width together. Below 0, where 8 bits seem to lose more, it is 0.
Like the scores of weights, the sum leaves out that errors of several places flow together. [architecture 6]
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.analysis.activation_scores import score_activation_choices
from lpcompile.analysis.affine import Range
from lpcompile.analysis.gradients import Samples, choose_head
from lpcompile.analysis.measured import Judge, measure_activations
from lpcompile.analysis.ranges import mean_squared_error
from lpcompile.assignment.scoring import Scorer
from lpcompile.assignment.tie_groups import TieGroup
from lpcompile.autodiff.losses import float_outputs
from lpcompile.errors import GradientError
from lpcompile.plan import ActivationPlan


def score_narrow(scorer: Scorer, groups: Sequence[TieGroup]) -> dict[str, float]:
    """Predicted loss of 4 bits beside 8, by tie group.

    Args:
        scorer: as it scores weights; without gradients tensors are measured, without samples their relative errors
            count, as those of weights do.
        groups: disjoint.
    """
    if not groups:
        return {}
    if scorer.observe is None or not scorer.calls or not float_outputs(scorer.graph):
        return {g.name: _summed(g, {t: _relative(scorer, g, t) for t in g.sources}) for g in groups}
    try:
        found = _by_gradients(scorer, groups)
    except GradientError as error:
        scorer.warnings.append(f"activations are scored by measuring, not by gradients: {error}")
        found = _measured(scorer, groups)
    return {g.name: _summed(g, found) for g in groups}


def _summed(group: TieGroup, rises: dict[str, float]) -> float:
    return max(0.0, float(np.sum([rises[t] for t in group.sources])))


def _by_gradients(scorer: Scorer, groups: Sequence[TieGroup]) -> dict[str, float]:
    assert scorer.observe is not None
    choices = {t: (g.planned, g.narrow) for g in groups for t in g.sources}
    readers = [n for g in groups for n in g.readers]
    samples = Samples.of(scorer.graph, readers, scorer.observe, scorer.taken(), further=list(choices))
    total = len(samples.calls)
    scores = score_activation_choices(
        scorer.graph,
        choices,
        scorer.observe,
        samples,
        choose_head(scorer.graph, scorer.loss, scorer.observe, samples),
        draws=scorer.draws(samples),
        seed=scorer.seed,
        step=lambda done: scorer.progress("scoring activations", done, total),
    )
    return {t: float(s.mean[1] - s.mean[0]) for t, s in scores.items()}


def _measured(scorer: Scorer, groups: Sequence[TieGroup]) -> dict[str, float]:
    """Half the noise power over the signal power of the outputs."""
    assert scorer.observe is not None
    outputs = [v.name for v in float_outputs(scorer.graph)]
    judge = Judge(scorer.observe(scorer.graph, outputs), scorer.taken(), outputs, per_sample=False)
    noise = []
    for plans in (
        {t: g.planned for g in groups for t in g.sources},
        {t: g.narrow for g in groups for t in g.sources},
    ):
        found = measure_activations(
            judge,
            scorer.graph,
            plans,
            scorer.observe,
            outputs,
            lambda a, b: scorer.progress("measuring activations", a, b),
        )
        noise.append({t: m.noise.value for t, m in found.items()})
    return {t: (noise[1][t] - noise[0][t]) / 2 for t in noise[0]}


def _relative(scorer: Scorer, group: TieGroup, tensor: str) -> float:
    """Rise of error over signal of the tensor: every layer passes its relative noise on with gain one."""
    statistics = scorer.statistics[tensor]
    centres, weights = statistics.points()
    power = max(float(weights @ np.square(centres)), 1e-30)

    def error(plan: ActivationPlan) -> float:
        return mean_squared_error(statistics, Range(plan.low, plan.high), plan.code_max + 1)

    return (error(group.narrow) - error(group.planned)) / power / 2
