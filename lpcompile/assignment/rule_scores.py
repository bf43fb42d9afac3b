"""What candidates lose by the sensitivities of the paper's words, in place of the exact Fisher form.

===================  ===========================================================================
`gradient` (S1)      mean |g| times |dW|_2 / sqrt(n)
`hessian` (S3)       1/2 Tr(H_l) / n |dW|^2; a trace below zero counts as zero
`measured` (S4)      the loss with that one candidate in the float model, its bias corrected
===================  ===========================================================================

S1 is no loss and does not add up over layers: it orders them, as the paper's heuristic does. [papers/mixed-posit 2.7]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Samples, choose_head
from lpcompile.analysis.hessian import hessian_traces
from lpcompile.analysis.inner_products import InnerProducts
from lpcompile.analysis.measured import Judge, OpenPatched
from lpcompile.analysis.own_weights import with_own_weights
from lpcompile.analysis.rounded_weights import as_weight, weight_rows
from lpcompile.analysis.scores import F64, Score
from lpcompile.analysis.weight_moments import per_weight_scores
from lpcompile.assignment.candidates import Candidate, FittedCandidates
from lpcompile.autodiff.losses import float_outputs
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node

RULES = ("gradient", "hessian", "measured")
PROBES = 8
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class RuleScores:
    """Scores of fitted candidates by a rule.

    Attributes:
        graph: the float graph, shapes inferred.
        fitted: candidates by layer.
        samples: what it runs on.
        observe: opens a graph.
        open_patched: opens a graph for exchanging weights.
        centre: by layer E[x_k] of the products of an output, (C_out, K), where its bias will be corrected.
        loss: of `analysis.gradients.LOSSES`.
        seed: of random directions.
        step: called with (done, total).
    """

    graph: LpGraph
    fitted: Mapping[str, FittedCandidates]
    samples: Samples
    observe: ObserveGraph
    open_patched: OpenPatched
    centre: Mapping[str, F64]
    loss: str = "probe"
    seed: int = 0
    step: Step = lambda _done, _total: None

    def of(self, rule: str) -> dict[str, Score]:
        """By layer, of its M candidates.

        Raises:
            GradientError: a rule of gradients, and an operator has none.
            KeyError: there is no such rule.
        """
        return {"gradient": self._gradient, "hessian": self._hessian, "measured": self._measured}[rule]()

    def _gradient(self) -> dict[str, Score]:
        ones = {n: np.ones_like(weight_rows(self.graph.node(n))) for n in self.fitted}
        head = choose_head(self.graph, self.loss, self.observe, self.samples)
        products = InnerProducts(self.graph, head, self.samples, 1)
        total = len(self.samples.calls)
        means = per_weight_scores(
            products, ones, self.observe, self.seed, lambda done: self.step(done, total)
        )
        return {n: _times(means[0][n], np.sqrt(_mean_squares(f))) for n, f in self.fitted.items()}

    def _hessian(self) -> dict[str, Score]:
        traces = hessian_traces(
            self.graph,
            list(self.fitted),
            self.observe,
            self.samples,
            choose_head(self.graph, self.loss, self.observe, self.samples),
            probes=PROBES,
            seed=self.seed,
            step=lambda done: self.step(done, 2 * PROBES),
        )
        return {n: _times(traces[n], _mean_squares(f) / 2) for n, f in self.fitted.items()}

    def _measured(self) -> dict[str, Score]:
        outputs = [v.name for v in float_outputs(self.graph)]
        judge = Judge(
            self.observe(self.graph, outputs),
            self.samples.calls,
            outputs,
            per_sample=self.samples.per_sample,
        )
        graph = with_own_weights(self.graph, self.fitted)
        nodes = {n: graph.node(n) for n in self.fitted}
        model = self.open_patched(
            graph, list(dict.fromkeys(t for n in nodes.values() for t in self._patched(n))), outputs
        )
        found: dict[str, Score] = {}
        for name, f in self.fitted.items():
            scores = []
            for candidate in f.candidates:
                for tensor, values in self._values(nodes[name], f, candidate).items():
                    model.patch(tensor, values)
                measured = judge.measure(model.run)
                with_classes = self.loss not in ("logits", "probe", "mse") and measured.kl is not None
                kept = measured.kl if with_classes else None
                scores.append(
                    (measured.noise.value / 2, measured.noise.error / 2)
                    if kept is None
                    else (kept.value, kept.error)
                )
            for tensor in self._patched(nodes[name]):
                model.restore(tensor)
            mean, error = np.array(scores).T * (len(weight_rows(nodes[name])) / len(f.channels))
            found[name] = Score(mean, error, len(self.samples.calls))
            self.step(len(found), len(self.fitted))
        return found

    def _patched(self, node: Node) -> list[str]:
        """Names of its weights and of the bias that will be corrected, unless others read that too."""
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None
        own = node.name in self.centre and bias is not None and len(bias.consumers) == 1
        return [weight.name, bias.name] if own and bias is not None else [weight.name]

    def _values(
        self, node: Node, f: FittedCandidates, candidate: Candidate
    ) -> dict[str, NDArray[np.float32]]:
        rows, error = np.array(weight_rows(node)), f.error(candidate)
        rows[f.channels] += error
        weight, *bias = self._patched(node)
        found = {weight: as_weight(node, rows)}
        for name in bias:
            values = np.array(self.graph.value(name).values)
            values[f.channels] -= np.einsum("rk,rk->r", error, self.centre[node.name][f.channels])
            found[name] = values
        return found


def _mean_squares(f: FittedCandidates) -> F64:
    """|dW|^2 / n of each candidate, over the channels tried."""
    return np.array([np.square(f.error(c), dtype=np.float64).mean() for c in f.candidates])


def _times(layer: Score, factors: F64) -> Score:
    mean = max(0.0, layer.value)
    return Score(mean * factors, layer.error * factors, layer.samples)
