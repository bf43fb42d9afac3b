"""Candidates of every layer, fitted and scored by what they cost the outputs of the model. [architecture 6].

Scores are the exact empirical Fisher form of each candidate's own rounding errors (`analysis.weight_scores`), or what a
rule by name gives in its place (`rule_scores`). Where the
gradient of an operator is not known, a layer is measured instead, one candidate each, and the others follow in
proportion of their weighted errors. Without samples every layer passes its relative noise on with gain one.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.gradients import Samples
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import second_moments
from lpcompile.analysis.macs import macs_on
from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.analysis.measured import Judge, OpenPatched, measure_weights
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.analysis.scores import F64, Score
from lpcompile.analysis.weight_scores import ErrorsOnDemand, LayerErrors, project_weight_errors
from lpcompile.assignment.candidates import FittedCandidates, Rounding, fit_candidates
from lpcompile.assignment.rule_scores import RuleScores
from lpcompile.autodiff.losses import float_outputs
from lpcompile.errors import GradientError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import WeightPlan
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.rows import to_rows

Progress = Callable[[str, int, int], None]
THREADS = 2
SAMPLE_PAIRS = 4096  # of samples and draws that are wanted: cross terms are noisier than squares
MOST_DRAWS = 16
MOST_THOROUGH = 32_000_000  # weights of a network in which every format is fitted in every layer
MOST_BY_FORMAT = 4
MOST_MACS = 4e10  # of all gradient runs; a draw costs three forward runs


@dataclass(frozen=True)
class Projected:
    """What candidates do to the outputs.

    Attributes:
        scores: of each candidate alone, by layer.
        projections: (samples, draws, M) by layer; those of several layers add up. Empty without gradients.
    """

    scores: Mapping[str, Score]
    projections: Mapping[str, F64]


@dataclass(frozen=True)
class Scorer:
    """How layers are scored.

    Attributes:
        graph: the float graph, shapes inferred.
        observe: opens a graph; None without a runtime.
        calls: deciding calls; empty without samples.
        statistics: of the inputs of layers.
        loss: of `analysis.gradients.LOSSES`.
        samples: how many are used, at most.
        seed: of the probes.
        corrects_bias: whether the mean of the errors will be taken out of biases.
        rounded: what becomes of the nearest codes of a layer.
        open_patched: for measuring where gradients fail.
        progress: called with (what, done, total).
        warnings: appended to.
        metrics: of rounding errors, by layer, where candidates are rounded by them.
        sensitivity: "fisher", or one of `rule_scores.RULES`.
    """

    graph: LpGraph
    observe: ObserveGraph | None
    calls: Sequence[Feeds]
    statistics: Mapping[str, TensorStatistics]
    loss: str
    samples: int
    seed: int
    corrects_bias: Callable[[Node], bool]
    rounded: Callable[[Node], Rounding | None]
    open_patched: OpenPatched | None
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    metrics: Mapping[str, InputMetric] = field(default_factory=dict)
    sensitivity: str = "fisher"

    def fitted(
        self, plans: Mapping[str, Sequence[WeightPlan]], floors: Mapping[str, F32]
    ) -> dict[str, FittedCandidates]:
        """Candidates of each layer, fitted as they will be rounded; those that are not worth their bits left out."""
        found = {}
        with ThreadPoolExecutor(THREADS) as pool:
            made = pool.map(lambda n: self._fitted(n, plans[n], floors.get(n)), plans)
            for done, (name, fitted) in enumerate(zip(plans, made, strict=True)):
                found[name] = fitted
                self.progress("fitting formats", done + 1, len(plans))
        return found

    def _fitted(self, name: str, plans: Sequence[WeightPlan], floor: F32 | None) -> FittedCandidates:
        node = self.graph.node(name)
        weight = node.inputs[1]
        assert weight is not None
        thorough = self._weights <= MOST_THOROUGH
        metric = self.metrics.get(name)
        found = fit_candidates(
            to_rows(node.op, weight.values),
            plans,
            importance=second_moments(node, self.statistics),
            metric=metric,
            min_scale=floor,
            rounded=self.rounded(node),
            prune=not thorough,
            by_format=MOST_BY_FORMAT,
        )
        return found.best_by_format(MOST_BY_FORMAT) if thorough else found

    @cached_property
    def _weights(self) -> int:
        """Of all layers."""
        return sum(math.prod(n.inputs[1].dims) for n in self.graph.layers() if n.inputs[1] is not None)

    def projected(self, fitted: Mapping[str, FittedCandidates]) -> Projected:
        """What each candidate of each layer does to the outputs, alone and together with others."""
        why = "no samples" if self.observe is None or not self.calls else ""
        why = why or ("" if float_outputs(self.graph) else "no output is made of floats")
        if why or self.observe is None:
            self.warnings.append(f"{why}: formats are chosen by the relative error of the weights alone")
            return Projected({n: self._relative(n, f) for n, f in fitted.items()}, {})
        try:
            samples = Samples.of(self.graph, list(fitted), self.observe, self.taken())
            centre = {
                n: mean
                for n in fitted
                if self.corrects_bias(node := self.graph.node(n))
                and (mean := mean_inputs(node, self.statistics, self.metrics)) is not None
            }
            if self.sensitivity != "fisher":
                return Projected(self._by_rule(fitted, samples, centre), {})
            found = project_weight_errors(
                self.graph,
                _Errors(self, fitted),
                self.observe,
                samples,
                loss=self.loss,
                draws=self.draws(samples),
                seed=self.seed,
                centre=centre,
                progress=lambda done, total: self.progress("scoring formats", done, total),
            )
        except GradientError as error:
            self.warnings.append(f"formats are scored by measuring, not by gradients: {error}")
            return Projected(self._measured(fitted), {})
        scaled = {n: p.terms * math.sqrt(p.share) for n, p in found.items()}
        return Projected({n: p.score for n, p in found.items()}, scaled)

    def _by_rule(
        self, fitted: Mapping[str, FittedCandidates], samples: Samples, centre: Mapping[str, F64]
    ) -> dict[str, Score]:
        assert self.observe is not None
        if self.open_patched is None:
            return {n: self._relative(n, f) for n, f in fitted.items()}
        rules = RuleScores(
            self.graph,
            fitted,
            samples,
            self.observe,
            self.open_patched,
            centre,
            self.loss,
            self.seed,
            lambda done, total: self.progress("scoring formats", done, total),
        )
        return rules.of(self.sensitivity)

    def _rows(self, name: str) -> F32:
        node = self.graph.node(name)
        weight = node.inputs[1]
        assert weight is not None
        return to_rows(node.op, weight.values)

    def errors(self, name: str, f: FittedCandidates) -> LayerErrors:
        """Errors of all candidates, on the channels that were tried."""
        channels = None if self.errors_are_whole(name, f) else f.channels
        return LayerErrors(channels, np.stack([f.error(c) for c in f.candidates]))

    def errors_are_whole(self, name: str, f: FittedCandidates) -> bool:
        """Whether all output channels were tried."""
        return len(f.channels) == len(self._rows(name))

    def _relative(self, name: str, f: FittedCandidates) -> Score:
        """Error over signal of the weights, for the whole layer."""
        energy = float(np.square(f.sample, dtype=np.float64).sum())
        power = np.array(
            [np.square(f.error(c), dtype=np.float64).sum() / max(energy, 1e-30) for c in f.candidates]
        )
        return Score(power / 2, np.zeros_like(power), 0)

    def taken(self) -> list[Feeds]:
        """Deciding calls, evenly spread, that hold about as many samples as are wanted."""
        sizes = [max((len(v) for v in c.values() if v.ndim), default=1) for c in self.calls]
        per_call = max(1.0, float(np.mean(sizes)))
        wanted = max(1, min(len(self.calls), round(self.samples / per_call)))
        return [self.calls[int(i)] for i in np.linspace(0, len(self.calls) - 1, wanted).astype(int)]

    def draws(self, samples: Samples) -> int:
        """How many random functionals of the loss each sample gets."""
        count = sum(samples.sizes)
        macs = macs_on(self.graph, samples.calls[0]) / max(1, samples.sizes[0])
        affordable = MOST_MACS / max(1.0, 3.0 * macs * count)
        return int(np.clip(min(SAMPLE_PAIRS / max(1, count), affordable), 1, MOST_DRAWS))

    def _measured(self, fitted: Mapping[str, FittedCandidates]) -> dict[str, Score]:
        """The cheapest candidate of each layer measured alone; the others by their weighted errors beside it."""
        if self.open_patched is None or self.observe is None:
            return {n: self._relative(n, f) for n, f in fitted.items()}
        outputs = [v.name for v in float_outputs(self.graph)]
        calls = self.taken()
        judge = Judge(self.observe(self.graph, outputs), calls, outputs, per_sample=False)
        changed = {}
        for name, f in fitted.items():
            rows = np.array(self._rows(name))
            rows[f.channels] += f.error(f.candidates[0])
            changed[name] = as_weight(self.graph.node(name), rows)
        found = measure_weights(
            judge,
            self.graph,
            changed,
            self.open_patched,
            lambda a, b: self.progress("measuring layers", a, b),
        )
        return {n: _in_proportion(fitted[n], m.noise) for n, m in found.items()}


class _Errors(ErrorsOnDemand):
    """Errors of all candidates by layer, made when they are asked for: those of all layers would fill the memory."""

    def __init__(self, scorer: Scorer, fitted: Mapping[str, FittedCandidates]) -> None:
        self._scorer, self._fitted = scorer, fitted

    def __getitem__(self, name: str) -> LayerErrors:
        return self._scorer.errors(name, self._fitted[name])

    def shape(self, name: str) -> tuple[int, int, int]:
        f = self._fitted[name]
        rows, columns = f.sample.shape
        return len(f.candidates), rows, columns

    def is_whole(self, name: str) -> bool:
        return self._scorer.errors_are_whole(name, self._fitted[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fitted)

    def __len__(self) -> int:
        return len(self._fitted)


def _in_proportion(f: FittedCandidates, noise: Score) -> Score:
    losses = np.array([c.loss for c in f.candidates])
    ratio: F64 = losses / max(losses[0], 1e-30)
    return Score(ratio * noise.value / 2, ratio * noise.error / 2, noise.samples)
