"""What rounding an activation costs the loss: 1/2 E_i <delta_i, Q(a_i) - a_i>^2, delta the gradient at the tensor.

`propagated` forgets that the errors of one sample add up: 1/2 sum over elements of E[(Q(a) - a)^2 delta^2].
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Head, Samples
from lpcompile.analysis.inner_products import InnerProducts, Step
from lpcompile.analysis.scores import F64, Score
from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.plan import ActivationPlan

CHUNK = 32  # tensors in one sweep: a gradient of each is alive until it is used


def score_activation_choices(
    graph: LpGraph,
    plans: Mapping[str, Sequence[ActivationPlan]],
    observe: ObserveGraph,
    samples: Samples,
    head: Head,
    *,
    draws: int = 1,
    seed: int = 0,
    propagated: bool = False,
    step: Step | None = None,
) -> dict[str, Score]:
    """Score M ways to round each tensor alone, along the same gradients.

    Args:
        graph: the float graph, shapes inferred.
        plans: how each tensor might be rounded, by its name.
        observe: opens a graph.
        samples: what it runs on.
        head: of the loss.
        draws: of the loss's random numbers.
        seed: of these.
        propagated: the sum over elements instead of the exact form.
        step: called with the number of calls done.

    Returns:
        By tensor, (M,) alternatives in the order given.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
    """
    found = _swept(graph, plans, observe, samples, head, draws, seed, propagated, step)
    return {
        n: Score.of_terms((t if propagated else np.square(t)).mean(1), factor=0.5)
        if len(t)
        else Score(np.zeros(len(plans[n])), np.zeros(len(plans[n])), 0)
        for n, t in found.items()
    }


def project_activation_choices(
    graph: LpGraph,
    plans: Mapping[str, Sequence[ActivationPlan]],
    observe: ObserveGraph,
    samples: Samples,
    head: Head,
    *,
    draws: int = 1,
    seed: int = 0,
    step: Step | None = None,
) -> dict[str, F64]:
    """Changes of the loss by M ways to round each tensor, along the gradient of every sample and draw.

    Args: as of `score_activation_choices`.

    Returns:
        By tensor, (samples, draws, M); no samples where nothing flows back. Those of several tensors add up: half the
        mean square of their sum is what they lose together.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
    """
    return _swept(graph, plans, observe, samples, head, draws, seed, False, step)


def _swept(
    graph: LpGraph,
    plans: Mapping[str, Sequence[ActivationPlan]],
    observe: ObserveGraph,
    samples: Samples,
    head: Head,
    draws: int,
    seed: int,
    propagated: bool,
    step: Step | None,
) -> dict[str, F64]:
    found: dict[str, F64] = {}
    names = list(plans)
    for first in range(0, len(names), CHUNK):
        part = {n: plans[n] for n in names[first : first + CHUNK]}
        products = InnerProducts(graph, head, samples, draws)
        found |= _sweep(graph, part, observe, products, seed, propagated, step)
    return found


def _sweep(
    graph: LpGraph,
    plans: Mapping[str, Sequence[ActivationPlan]],
    observe: ObserveGraph,
    p: InnerProducts,
    seed: int,
    propagated: bool,
    step: Step | None,
) -> dict[str, F64]:
    b = p.builder
    changes: dict[str, list[Value]] = {}

    def use(name: str, delta: Value) -> Value:
        if name not in changes:
            made = [rounding_error(b, p.made.value(name), plan) for plan in plans[name]]
            changes[name] = [b.mul(e, e) for e in made] if propagated else made
        flow = b.mul(delta, delta) if propagated else delta
        columns = [p.dot(change, flow) for change in changes[name]]
        product = columns[0] if len(columns) == 1 else b.op("Concat", *columns, axis=1)
        p.keep(name, product)
        return product

    for draw in range(len(p.losses)):
        p.use_deltas(draw, {n: partial(use, n) for n in plans})
    terms: dict[str, list[list[F64]]] = {n: [[] for _ in p.samples.calls] for n in plans}
    for i, values in p.runs(observe, seed, step):
        for name, draws in values.items():
            terms[name][i] += [x.astype(np.float64) for (x,) in draws]
    return {n: _stacked(t, len(plans[n])) for n, t in terms.items()}


def _stacked(terms: list[list[F64]], alternatives: int) -> F64:
    """(samples, draws, M) of what the draws of every call gave."""
    if not all(terms):
        return np.zeros((0, 1, alternatives))
    return np.concatenate([np.stack(t, axis=1) for t in terms])


def rounding_error(b: GradientBuilder, x: Value, plan: ActivationPlan) -> Value:
    """Q(x) - x."""
    scale = b.number(plan.scale, x)
    low, high = b.number(-plan.zero_point, x), b.number(plan.code_max - plan.zero_point, x)
    codes = b.op("Clip", b.op("Round", b.div(x, scale)), low, high)
    return b.with_shape(b.sub(b.mul(b.with_shape(codes, x), scale), x), x)
