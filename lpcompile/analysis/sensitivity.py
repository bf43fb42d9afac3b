"""How sensitive the layers of a network are to having their weights, or activations, quantised: methods by name.

====================  =======================================================  ========  ===========
method (paper label)  what                                                     weights   activations
====================  =======================================================  ========  ===========
`gradient` (s1)       mean |g| times |dW|_2 / sqrt(n)                          yes       -
`fisher` (s2)         1/2 E_i <g_i, dW>^2, exact per sample                    yes       yes
`fisher-diagonal`     1/2 sum E[g^2] dW^2                                      yes       -
`hessian` (s3)        1/2 Tr(H_l) / n |dW|^2, by Hutchinson                    yes       -
`propagated`          error power times gradient power at the layer's output   yes       yes
`measured` (s4)       KL, output noise and loss when that one is quantised     yes       yes
====================  =======================================================  ========  ===========

All but the last need gradients; where the graph has none they fall back to `measured`, with a warning that names the
operator. [papers/mixed-posit 2.7]
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lpcompile.analysis.activation_scores import score_activation_choices
from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Head, Samples, choose_head
from lpcompile.analysis.hessian import hessian_traces
from lpcompile.analysis.inner_products import InnerProducts
from lpcompile.analysis.measured import Judge, Measured, OpenPatched, measure_activations, measure_weights
from lpcompile.analysis.rank_correlation import spearman
from lpcompile.analysis.rounded_weights import WeightRounding, as_weight, rounded_rows, weight_rows
from lpcompile.analysis.scores import Score
from lpcompile.analysis.weight_moments import per_weight_scores, propagated_scores
from lpcompile.analysis.weight_scores import LayerErrors, score_weight_errors
from lpcompile.autodiff.losses import ends_in_softmax, float_outputs
from lpcompile.errors import GradientError, InputError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan

METHODS = ("gradient", "fisher", "fisher-diagonal", "hessian", "propagated", "measured")
ON_ACTIVATIONS = ("fisher", "propagated", "measured")
ALIASES = {"s1": "gradient", "s2": "fisher", "s3": "hessian", "s4": "measured"}
Progress = Callable[[str, int, int], None]
Columns = dict[str, dict[str, Score]]  # column -> layer or tensor -> score


def method_named(text: str) -> str:
    """The method that a word means.

    Raises:
        InputError: none.
    """
    name = ALIASES.get(text.strip().lower(), text.strip().lower())
    if name not in METHODS:
        known = ", ".join((*METHODS, *ALIASES))
        raise InputError(f"there is no sensitivity method '{text.strip()}'", hint=f"methods are: {known}")
    return name


@dataclass(frozen=True)
class Study:
    """What sensitivities are asked about.

    Attributes:
        graph: the float graph, shapes inferred.
        layers: names of the layers.
        rounding: of their weights.
        activations: how tensors would be rounded; none: only weights are asked about.
        samples: what the network runs on.
        observe: opens a graph.
        open_patched: opens a graph for exchanging weights.
        loss: one of `gradients.LOSSES`.
        draws: of the loss's random numbers, or of Hutchinson's.
        seed: of these.
        progress: called with (what, done, total).
    """

    graph: LpGraph
    layers: Sequence[str]
    rounding: WeightRounding
    samples: Samples
    observe: ObserveGraph
    open_patched: OpenPatched
    activations: Mapping[str, ActivationPlan] = field(default_factory=dict)
    loss: str = "auto"
    draws: int = 4
    seed: int = 0
    progress: Progress = lambda _what, _done, _total: None

    @cached_property
    def head(self) -> Head:
        """The loss."""
        return choose_head(self.graph, self.loss, self.observe, self.samples)

    @cached_property
    def errors(self) -> dict[str, F32]:
        """W^ - W by layer, (C_out, K)."""
        nodes = {n: self.graph.node(n) for n in self.layers}
        return {n: rounded_rows(node, self.rounding) - weight_rows(node) for n, node in nodes.items()}

    def rounded_weight(self, layer: str) -> F32:
        """W^ in the shape of W."""
        node = self.graph.node(layer)
        return as_weight(node, weight_rows(node) + self.errors[layer])

    @cached_property
    def judge(self) -> Judge:
        """The float outputs."""
        outputs = [v.name for v in float_outputs(self.graph)]
        return Judge(
            self.observe(self.graph, outputs),
            self.samples.calls,
            outputs,
            labels=self.samples.labels,
            per_sample=self.samples.per_sample,
        )

    def products(self) -> InnerProducts:
        """A fresh gradient graph."""
        return InnerProducts(self.graph, self.head, self.samples, self.draws)

    def step(self, what: str, total: int) -> Callable[[int], None]:
        """Progress of one sweep."""
        return lambda done: self.progress(what, done, total)


@dataclass
class Sensitivities:
    """What was found.

    Attributes:
        weights: column -> layer -> score; the first column is that of the first method asked for.
        activations: column -> tensor -> score.
        seconds: by method.
        warnings: fallbacks.
        loss: name of the loss that gradients were taken of; "" where none was.
    """

    weights: Columns = field(default_factory=dict)
    activations: Columns = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    loss: str = ""

    def correlations(self, columns: Columns) -> list[list[float]]:
        """Spearman's rank correlation of all pairs of columns."""
        values = [np.asarray([s.value for s in c.values()]) for c in columns.values()]
        return [[spearman(a, b) for b in values] for a in values]


def analyse(study: Study, methods: Sequence[str]) -> Sensitivities:
    """Apply methods by name.

    Raises:
        CalibrationError: labels that are missing or do not fit.
        InputError: there is no layer to ask about, or nothing that it could be asked by.
    """
    if not study.layers:
        inside = any(node.subgraphs for node in study.graph.nodes())
        raise InputError(
            "the model has no layer with constant weights" + (" outside its control flow" if inside else ""),
            hint="--input-value NAME=NUMBER settles an input that chooses branches; or export it without If or Loop"
            if inside
            else "there is nothing to analyse",
        )
    if not float_outputs(study.graph):
        raise InputError(
            "no output is made of floats that could be compared",
            hint="make what counts an output of the model",
        )
    found = Sensitivities()
    wanted = list(dict.fromkeys(methods))
    done: set[str] = set()
    while wanted:
        method = wanted.pop(0)
        if method in done:
            continue
        done.add(method)
        start = time.perf_counter()
        try:
            weights, activations = _apply(study, method)
        except GradientError as error:
            found.warnings.append(f"{method}: no gradient ({error}); measured instead, one layer at a time")
            wanted.insert(0, "measured")
            continue
        found.weights |= weights
        found.activations |= activations
        found.seconds[method] = time.perf_counter() - start
        if study.activations and method not in ON_ACTIVATIONS:
            found.warnings.append(f"{method}: only for weights")
        if method != "measured":
            found.loss = study.head.shown
    return found


def _apply(study: Study, method: str) -> tuple[Columns, Columns]:
    if method == "measured":
        return _measured(study)
    weights = WEIGHT_METHODS[method](study)
    activations: dict[str, Score] = {}
    if study.activations and method in ON_ACTIVATIONS:
        activations = score_activation_choices(
            study.graph,
            {name: (plan,) for name, plan in study.activations.items()},
            study.observe,
            study.samples,
            study.head,
            draws=study.draws,
            seed=study.seed,
            propagated=method == "propagated",
            step=study.step(f"{method}, activations", len(study.samples.calls)),
        )
    return {method: weights}, {method: activations} if activations else {}


def _fisher(study: Study) -> dict[str, Score]:
    return score_weight_errors(
        study.graph,
        {n: LayerErrors(None, e[None]) for n, e in study.errors.items()},
        study.observe,
        study.samples,
        head=study.head,
        draws=study.draws,
        seed=study.seed,
        progress=lambda done, total: study.progress("fisher", done, total),
    )


def _gradient(study: Study) -> dict[str, Score]:
    step = study.step("gradient", len(study.samples.calls))
    return per_weight_scores(study.products(), study.errors, study.observe, study.seed, step)[0]


def _diagonal(study: Study) -> dict[str, Score]:
    step = study.step("fisher-diagonal", len(study.samples.calls))
    return per_weight_scores(study.products(), study.errors, study.observe, study.seed, step)[1]


def _propagated(study: Study) -> dict[str, Score]:
    step = study.step("propagated", len(study.samples.calls))
    return propagated_scores(study.products(), study.errors, study.observe, study.seed, step)


def _hessian(study: Study) -> dict[str, Score]:
    traces = hessian_traces(
        study.graph,
        study.layers,
        study.observe,
        study.samples,
        study.head,
        probes=study.draws,
        seed=study.seed,
        step=study.step("hessian", 2 * study.draws),
    )
    found = {}
    for name, trace in traces.items():
        e = study.errors[name]
        factor = 0.5 * float(np.square(e, dtype=np.float64).mean())
        found[name] = Score(trace.mean * factor, trace.standard_error * factor, trace.samples)
    return found


WEIGHT_METHODS: Mapping[str, Callable[[Study], dict[str, Score]]] = {
    "gradient": _gradient,
    "fisher": _fisher,
    "fisher-diagonal": _diagonal,
    "hessian": _hessian,
    "propagated": _propagated,
}


def _measured(study: Study) -> tuple[Columns, Columns]:
    weights = {n: study.rounded_weight(n) for n in study.layers}
    on_weights = measure_weights(
        study.judge,
        study.graph,
        weights,
        study.open_patched,
        lambda done, total: study.progress("measuring weights", done, total),
    )
    on_activations: dict[str, Measured] = {}
    if study.activations:
        on_activations = measure_activations(
            study.judge,
            study.graph,
            study.activations,
            study.observe,
            study.judge.outputs,
            lambda done, total: study.progress("measuring activations", done, total),
        )
    return _columns(study, on_weights), _columns(study, on_activations)


def _columns(study: Study, found: Mapping[str, Measured]) -> Columns:
    """Measured columns, the quantity that the loss predicts first."""
    columns: Columns = {}
    noise_first = study.loss in ("probe", "logits", "mse") or (
        study.loss == "auto" and not ends_in_softmax(study.graph)
    )
    for key in ("noise", "kl", "loss") if noise_first else ("kl", "noise", "loss"):
        scores = {n: s for n, m in found.items() if (s := getattr(m, key)) is not None}
        if scores:
            columns[f"measured {key}"] = scores
    return columns
