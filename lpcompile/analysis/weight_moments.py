"""Sensitivities that look at single weights or outputs: means of gradients, diagonals, propagated error powers.

==================  ======================================================================================
`gradient` (S1)     mean |g| over weights and samples, times |dW|_2 / sqrt(n)
`fisher-diagonal`   1/2 sum over weights of E[g^2] dW^2; E of the squares of per-sample gradients
`propagated`        1/2 sum over outputs of E[(dW x)^2] E[delta^2], a channel's positions sharing the two means
==================  ======================================================================================

[papers/mixed-posit 2.7]
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.inner_products import InnerProducts, Step, layer_output
from lpcompile.analysis.scores import F64, Score
from lpcompile.formats.arrays import F32
from lpcompile.ir.value import Value


def per_weight_scores(
    p: InnerProducts, errors: Mapping[str, F32], observe: ObserveGraph, seed: int, step: Step | None = None
) -> tuple[dict[str, Score], dict[str, Score]]:
    """`gradient` and `fisher-diagonal` by layer name, of errors (C_out, K); one sweep gives both.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
    """
    b = p.builder
    squares = {n: b.constant(np.square(e).reshape(-1, 1)) for n, e in errors.items()}
    for draw in range(len(p.losses)):
        gradients = p.weight_gradients(draw, list(errors))
        for name, found in gradients.items():
            flat = b.reshape(found.weight, [p.lead, -1])
            size = b.sum(b.with_shape(b.op("Abs", flat), flat), [1], keepdims=True)
            p.keep(name, size, b.matmul(b.mul(flat, flat), squares[name]))
    mean: dict[str, list[list[F64]]] = {n: [[] for _ in p.samples.calls] for n in errors}
    diagonal: dict[str, list[list[F64]]] = {n: [[] for _ in p.samples.calls] for n in errors}
    for i, values in p.runs(observe, seed, step):
        for name, draws in values.items():
            mean[name][i] += [a.astype(np.float64) for a, _ in draws]
            diagonal[name][i] += [d.astype(np.float64) for _, d in draws]
    spread = {n: float(np.linalg.norm(e)) / e.size**1.5 for n, e in errors.items()}  # of a sum, not a mean
    return (
        {n: _score(t, spread[n]) for n, t in mean.items()},
        {n: _score(t, 0.5) for n, t in diagonal.items()},
    )


def _score(terms: list[list[F64]], factor: float) -> Score:
    if not all(terms):
        return Score(np.zeros(1), np.zeros(1), 0)
    return Score.of_terms(np.concatenate([np.mean(t, axis=0) for t in terms]), factor=factor)


def propagated_scores(
    p: InnerProducts, errors: Mapping[str, F32], observe: ObserveGraph, seed: int, step: Step | None = None
) -> dict[str, Score]:
    """`propagated` by layer name, of errors (C_out, K); it has no standard error.

    Raises:
        GradientError: as above.
    """
    b = p.builder
    powers: dict[str, Value] = {}

    def use(name: str, delta: Value) -> Value:
        node = p.made.node(name)
        if name not in powers:
            change = p.layer_change(node, errors[name])
            sums = p.channel_sums(node, b.mul(change, change))
            positions = b.op("Div", b.op("Size", delta), b.op("Size", sums))
            powers[name] = b.div(sums, b.cast(positions, np.dtype(np.float32)))
        behind = p.channel_sums(node, b.mul(delta, delta))
        p.keep(name, powers[name], behind)
        return behind

    for draw in range(len(p.losses)):
        p.use_deltas(draw, {layer_output(p.made.node(n)).name: partial(use, n) for n in errors})
    local: dict[str, list[F64]] = {n: [] for n in errors}
    behind: dict[str, list[F64]] = {n: [] for n in errors}
    for _, values in p.runs(observe, seed, step):
        for name, draws in values.items():
            local[name].append(draws[0][0].astype(np.float64))
            behind[name].append(np.mean([g.astype(np.float64) for _, g in draws], axis=0))
    found = {}
    for name in errors:
        value = 0.0
        if local[name]:
            means = [np.concatenate(x[name]).mean(0) for x in (local, behind)]
            value = 0.5 * float(means[0] @ means[1])
        found[name] = Score(np.asarray([value]), np.zeros(1), len(p.samples.calls))
    return found
