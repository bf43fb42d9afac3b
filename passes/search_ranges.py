"""Search the ranges of activations by what they cost the outputs of the model.

Works on what `quantize-activations` planned, at any width, before or after the weights are rounded; rounded weights are
used. The ranges are kept only if, found on one half of the deciding samples, they win on the other half. [architecture
3.3, 6, 7; `analysis.range_search`]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.activation_scores import project_activation_choices
from lpcompile.analysis.batches import batch_inputs, rebatched
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.gain import Gain
from lpcompile.analysis.gradients import Samples, choose_head
from lpcompile.analysis.integer_reads import with_separate_reads
from lpcompile.analysis.macs import macs_of_call
from lpcompile.analysis.planned_groups import PlannedGroup, planned_groups
from lpcompile.analysis.range_candidates import candidates
from lpcompile.analysis.range_noise import RangeNoise
from lpcompile.analysis.range_search import Plans, Task, cross_validated, search
from lpcompile.analysis.scores import F64
from lpcompile.analysis.stored_weights import with_stored_weights
from lpcompile.autodiff.losses import float_outputs
from lpcompile.errors import GradientError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import AT_RUN_TIME, STATIC, ActivationPlan
from lpcompile.quant.accumulators import BIAS_UNITS
from lpcompile.records import PassReport

RULE = "output"
LOSSES = ("logits", "probe")
LEAST_SAMPLES = 4
LEAST_CALLS = 8  # halves of a few samples must be alike
FEWEST = 32  # samples that are kept where runs are dear
DRAWS = 4  # of the loss's random numbers
MOST_MACS = 1.2e12  # of all measurements; half a minute or more on two cores
LEAST_RUNS = 3  # the start and what the projections say


@dataclass(frozen=True, slots=True)
class SearchRanges(Pass):
    """Ranges by output noise.

    Attributes:
        loss: whose noise counts: logits or probe.
        samples: how many of the deciding samples are used at most.
        runs: measurements of one search at most.
    """

    name: ClassVar[str] = "search-ranges"
    summary: ClassVar[str] = "search ranges of activations by output noise; kept if they win on other samples"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    loss: str = "logits"
    samples: int = 256
    runs: int = 120  # measurements of one search at most

    def __post_init__(self) -> None:
        option_checks.one_of("loss", self.loss, LOSSES)
        if self.samples < LEAST_SAMPLES or self.runs < LEAST_RUNS:
            raise ValueError(f"option 'samples' is at least {LEAST_SAMPLES}, 'runs' at least {LEAST_RUNS}")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan other ranges of the same widths."""
        report = PassReport(self.name)
        for name, layer in graph.plan.layers.items():
            if layer.kernel in AT_RUN_TIME:
                report.skip(name, "its range is measured at run time")
        groups = planned_groups(graph)
        if not groups:
            return report
        if obstacle := self._obstacle(graph, ctx, groups):
            for group in groups:
                report.skip(group.name, obstacle)
            return report
        assert ctx.calibration is not None
        assert ctx.observe is not None
        samples = self._samples(graph, ctx, groups)
        if len(samples.calls) < LEAST_SAMPLES:
            for group in groups:
                report.skip(group.name, f"{len(samples.calls)} samples are too few for two halves")
            return report
        stored = with_stored_weights(graph)
        noise = RangeNoise(graph, stored, groups, ctx.observe, samples, self.loss)
        task = self._task(graph, stored, ctx, groups, samples)
        total = 3 * task.runs
        gain, halves = cross_validated(
            task,
            (lambda plans: noise.of_half(0, plans), lambda plans: noise.of_half(1, plans)),
            noise.rows,
            lambda done: ctx.progress("searching ranges", done, total),
        )
        report.metrics |= {
            "cross_validated_gain_db": gain.db,
            "cross_validated_gain_standard_error_db": gain.standard_error_db,
            "samples": float(sum(samples.sizes)),
        }
        if gain.db <= 0:
            for group in groups:
                report.skip(group.name, f"kept by rule {group.plan.rule}: {_shown(gain)}")
            return report
        found = search(
            replace(task, known=halves),
            noise.of_all,
            lambda done: ctx.progress("searching ranges", 2 * task.runs + done, total),
        )
        report.metrics |= {
            "output_sqnr_before_db": _db(noise.of_all(task.start)),
            "output_sqnr_after_db": _db(found.noise),
        }
        self._write(graph, groups, task, found.plans, gain, report)
        return report

    def _obstacle(self, graph: LpGraph, ctx: PassContext, groups: Sequence[PlannedGroup]) -> str:
        if ctx.decisions is not None:
            return "as decided in the file"
        if any(g.plan.rule == RULE for g in groups):
            return "its range was searched before"
        if ctx.calibration is None or ctx.observe is None or ctx.calibration.generated:
            return "no samples to measure outputs on"
        if any(t not in ctx.statistics for g in groups for t in g.members):
            return "its values were not gathered"
        return "" if float_outputs(graph) else "no output is made of floats"

    def _samples(self, graph: LpGraph, ctx: PassContext, groups: Sequence[PlannedGroup]) -> Samples:
        """Deciding calls, evenly spread: as many samples as leave every group its moves, or the fewest."""
        assert ctx.calibration is not None
        assert ctx.observe is not None
        calls = ctx.calibration.deciding
        sizes = _sizes(calls)
        per_call = max(1.0, float(np.mean(sizes)))
        wanted = min(self.runs, LEAST_RUNS + 2 * len(groups))
        affordable = MOST_MACS / (2 * wanted * _macs_of_sample(graph, ctx, sum(sizes)))
        count = round(min(self.samples, max(FEWEST, affordable)) / per_call)
        count = int(np.clip(count, min(2, len(calls)), len(calls)))
        taken: list[Feeds] = [calls[int(i)] for i in np.linspace(0, len(calls) - 1, count).astype(int)]
        sources = [t for g in groups for t in g.sources]
        layers = [n.name for n in graph.layers()]
        found, inputs = Samples.of(graph, layers, ctx.observe, taken, further=sources), batch_inputs(graph)
        total = sum(found.sizes)
        if not found.per_sample or inputs is None or len(found.calls) >= LEAST_CALLS:
            return found
        return replace(found, calls=rebatched(found.calls, inputs, max(1, total // LEAST_CALLS)))

    def _task(
        self,
        graph: LpGraph,
        stored: LpGraph,
        ctx: PassContext,
        groups: Sequence[PlannedGroup],
        samples: Samples,
    ) -> Task:
        assert ctx.calibration is not None
        least = [_least_scale(graph, g) for g in groups]
        choices = [
            [g.plan, *(c for c in candidates(g, ctx.statistics)[1:] if c.scale >= low)]
            for g, low in zip(groups, least, strict=True)
        ]
        taken = sum(_sizes(samples.calls))
        macs = 2 * taken * _macs_of_sample(graph, ctx, sum(_sizes(ctx.calibration.deciding)))
        runs = int(np.clip(MOST_MACS / macs, LEAST_RUNS, self.runs))
        return Task(
            [g.plan for g in groups],
            choices,
            self._projections(stored, ctx, groups, choices, samples),
            least,
            runs,
        )

    def _projections(
        self,
        stored: LpGraph,
        ctx: PassContext,
        groups: Sequence[PlannedGroup],
        choices: Sequence[Plans],
        samples: Samples,
    ) -> list[F64]:
        assert ctx.observe is not None
        stored, reads = with_separate_reads(stored)
        try:
            found = project_activation_choices(
                stored,
                {reads.get(t, t): plans for g, plans in zip(groups, choices, strict=True) for t in g.sources},
                ctx.observe,
                samples,
                choose_head(stored, self.loss, ctx.observe, samples),
                draws=DRAWS,
                seed=ctx.seed,
                step=lambda done: ctx.progress("scoring ranges", done, len(samples.calls)),
            )
        except GradientError as error:
            ctx.warnings.append(f"ranges are searched by measuring alone, without gradients: {error}")
            return []
        return [
            _summed([found[reads.get(t, t)] for t in g.sources], len(c))
            for g, c in zip(groups, choices, strict=True)
        ]

    def _write(
        self,
        graph: LpGraph,
        groups: Sequence[PlannedGroup],
        task: Task,
        plans: Plans,
        gain: Gain,
        report: PassReport,
    ) -> None:
        costs = _alone(task, plans)
        for group, plan, cost in zip(groups, plans, costs, strict=True):
            searched = replace(plan, rule=RULE)
            for tensor in group.members:
                graph.plan = graph.plan.with_activation(tensor, searched)
            report.change(
                group.name,
                f"{plan.format}, {plan.rule}{cost}; {_shown(gain)}",
                before=_range(group.plan),
                after=_range(plan),
            )


def _shown(gain: Gain) -> str:
    return f"all ranges together gain {gain.db:.2f} dB (standard error {gain.standard_error_db:.2f}) on other samples"


def _alone(task: Task, plans: Plans) -> list[str]:
    """What each group alone is predicted to cost, in words; empty where there are no gradients."""
    if not task.projections:
        return [""] * len(plans)
    found = []
    for p, choices, plan in zip(task.projections, task.choices, plans, strict=True):
        if len(p) and plan in choices:
            found.append(f", alone {_db(np.square(p[:, :, list(choices).index(plan)])):.1f} dB predicted")
        else:
            found.append("")
    return found


def _range(plan: ActivationPlan) -> str:
    return f"{plan.low:.6g} to {plan.high:.6g}, scale {plan.scale:.6g}, zero point {plan.zero_point}, {plan.rule}"


def _db(noise: F64) -> float:
    level = float(noise.mean()) if noise.size else 0.0
    return -10 * math.log10(level) if 0 < level < math.inf else math.inf


def _summed(parts: Sequence[F64], alternatives: int) -> F64:
    """Errors of one sample add up; sources that nothing flows back to add none."""
    alive = [p for p in parts if len(p)]
    return np.sum(alive, axis=0) if alive else np.zeros((0, 1, alternatives))


def _sizes(calls: Sequence[Feeds]) -> list[int]:
    return [max((len(v) for v in c.values() if v.ndim), default=1) for c in calls]


def _least_scale(graph: LpGraph, group: PlannedGroup) -> float:
    """Below it the bias of a layer whose weights are rounded already would not fit."""
    least = 0.0
    for node in graph.layers():
        layer, x = graph.plan.layers.get(node.name), node.inputs[0]
        if layer is None or layer.tensor is None or layer.kernel not in STATIC or x is None:
            continue
        bias = planned_bias(node, layer)
        if x.name in group.members and bias is not None:
            unit = np.maximum(layer.tensor.int8_image()[1].reshape(-1), np.finfo(np.float32).tiny)
            least = max(least, float((np.abs(bias) / unit.astype(np.float64)).max()) / BIAS_UNITS)
    return least


def _macs_of_sample(graph: LpGraph, ctx: PassContext, samples: int) -> float:
    """Multiply-accumulates for a sample; of layers without fixed shapes by how much they read while calibrating."""
    total = 0.0
    for node in graph.layers():
        known, x, weight = macs_of_call(node), node.inputs[0], node.inputs[1]
        assert weight is not None
        if known is not None and node.op in ("Conv", "ConvTranspose"):
            total += known
        elif x is not None and x.name in ctx.statistics:
            total += ctx.statistics[x.name].count * weight.dims[-1] / max(1, samples)
        else:
            total += known or 0
    return max(1.0, total)
