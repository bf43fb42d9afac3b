"""S3: the trace of each layer's block of the Hessian, by Hutchinson's estimator on the gradient graph.

    Tr H_l = E[z_l^T H z_l],  H z = (g(W + e D z) - g(W - e D z)) / 2e,  z = +-1,  D = rms(W_l) of each layer

One z for all layers at once: what other layers' z add has mean zero. The product with the Hessian is a central
difference of two gradients, not the gradient graph differentiated once more: that would need rules for all that the
rules emit, and a graph some three times as large, while a difference needs two runs of graphs that exist. Its error is
of second order in e, and at the float weights the loss that is differentiated (KL or squared error to the float model)
has no gradient, so that nothing cancels. [architecture 5; papers/mixed-posit 2.7]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Head, Samples
from lpcompile.analysis.inner_products import InnerProducts, Step, layer_output
from lpcompile.analysis.rounded_weights import as_weight, weight_rows
from lpcompile.analysis.scores import Score
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

STEP = 0.01  # of the root mean square of a layer's weights
PROBES = 4


def hessian_traces(
    graph: LpGraph,
    layers: Sequence[str],
    observe: ObserveGraph,
    samples: Samples,
    head: Head,
    *,
    probes: int = PROBES,
    seed: int = 0,
    step: Step | None = None,
) -> dict[str, Score]:
    """Tr H_l of the mean loss of a sample, by layer name; the mean over probes and its standard error.

    Args:
        graph: the float graph, shapes inferred.
        layers: names.
        observe: opens a graph.
        samples: what it runs on.
        head: of the loss; `kl` and `sampled` differentiate KL to the float model, `probe`, `mse` and `logits` half the
            squared error to it (of logits with their common shift), `labels` the cross-entropy.
        probes: number of draws of z.
        seed: of these.
        step: called with the number of gradient sweeps done.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
    """
    rows = {n: weight_rows(graph.node(n)) for n in layers}
    sizes = {n: float(np.sqrt(np.square(w, dtype=np.float64).mean())) or 1.0 for n, w in rows.items()}
    differentiated = _loss_of(head)
    found: dict[str, list[float]] = {n: [] for n in layers}
    for probe in range(probes):
        rng = np.random.default_rng([seed, probe])
        signs = {n: (rng.integers(0, 2, w.shape) * 2 - 1).astype(np.float32) for n, w in rows.items()}
        ends = []
        for side in (STEP, -STEP):
            moved = graph.copy()
            for n, w in rows.items():
                node = moved.node(n)
                moved.set_weights(node, as_weight(node, w + np.float32(side * sizes[n]) * signs[n]), None)
            ends.append(_slopes(InnerProducts(graph, differentiated, samples, 1, at=moved), signs, observe))
            if step is not None:
                step(2 * probe + len(ends))
        for n in layers:
            found[n].append((ends[0][n] - ends[1][n]) / (2 * STEP * sizes[n]))
    return {n: Score.of_terms(np.asarray(v)[:, None]) for n, v in found.items()}


def _loss_of(head: Head) -> Head:
    """A loss with a value, of which the head's random functionals are the second order."""
    if head.kind in ("probe", "contrast"):
        return replace(head, kind="mse", scales={t: head.scales.get(t, 1.0) ** 2 / 2 for t in head.tensors})
    return replace(head, kind="kl") if head.kind in ("softmax", "sampled") else head


def _slopes(p: InnerProducts, signs: Mapping[str, F32], observe: ObserveGraph) -> dict[str, float]:
    """<g, z_l> of the mean loss of a sample."""

    def use(name: str, delta: Value) -> Value:
        product = p.dot(p.layer_change(p.made.node(name), signs[name]), delta)
        p.keep(name, product)
        return product

    p.use_deltas(0, {layer_output(p.made.node(n)).name: partial(use, n) for n in signs})
    totals, count = dict.fromkeys(signs, 0.0), 0
    for _, values in p.runs(observe, 0):
        count += max(len(draws[0][0]) for draws in values.values())
        for name, ((product,),) in values.items():
            totals[name] += float(product.astype(np.float64).sum())
    return {n: t / max(1, count) for n, t in totals.items()}
