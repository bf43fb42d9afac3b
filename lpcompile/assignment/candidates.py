"""What a layer may take, and how well each choice fits its weights: the candidates that formats are assigned from.

Every format is tried with every group size. Fits are on output channels spread evenly over large layers; they are
coarse (`quant.coarse_fit`), and a candidate that is not closer to the weights than a cheaper or equally cheap one is
dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.assignment.layer_facts import LayerFormat
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.group import has_group_table
from lpcompile.formats.planned import LEARNED, format_of, short_name
from lpcompile.ir.node import Node
from lpcompile.plan import METRIC_ROUNDINGS, Kernel, WeightPlan
from lpcompile.quant.coarse_fit import CHANNEL, CoarseFit, Estimate
from lpcompile.quant.codebook_search import Fitting, fit_codebook, weighted_loss
from lpcompile.quant.fit import damped_importance, fit
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.target import Target

FORMATS = ("fixp4", "posit4", "nf4", "float4_e2m1fn", "pot4", LEARNED, "int8")
GRANULARITIES = ("channel", "group8", "group16", "group32", "group64", "group128")
SHORT_SCALES = "ufloat8_e4m4"
SAMPLE_WEIGHTS = 1 << 15
TABLE_WEIGHTS = 1 << 13  # that decide on a learned table
TABLE_ROUNDS = 1
TABLE_STARTS = ("nf4",)
TABLE_GROUP = 32  # one table serves all group sizes
MOST = 12
_DOUBT = 0.03  # estimates are that close to what a fit gives

EIGHT_BIT_ROUNDING = (
    "kernel-sums"  # of formats of more than 4 bits where the others are rounded by their metric
)
Rounding = Callable[[F32, QuantizedTensor], QuantizedTensor]


@dataclass(frozen=True)
class Candidate:
    """One way to store a layer, tried on some of its channels.

    Attributes:
        weight: the plan; learned tables by their digits.
        tensor: codes and scales of the channels tried.
        loss: importance-weighted squared error, for the whole layer.
        bits: of the whole layer as stored.
        left: what its codes stand for where a side path stands for the rest; None: for all of the weights.
    """

    weight: WeightPlan
    tensor: QuantizedTensor
    loss: float
    bits: int
    left: F32 | None = None


@dataclass(frozen=True)
class FittedCandidates:
    """The candidates of one layer, cheapest first.

    Attributes:
        channels: output channels that were tried, ascending.
        sample: (R, K) their weights.
        candidates: each closer to the weights than all cheaper ones, where they were pruned.
        metric: by which candidates of METRIC_ROUNDINGS will be rounded.
        outputs: C.
    """

    channels: NDArray[np.intp]
    sample: F32
    candidates: tuple[Candidate, ...]
    metric: InputMetric | None = None
    outputs: int = 0

    def error(self, candidate: Candidate) -> F32:
        """W^ - W, (R, K), of the channels tried, as they are to be expected once the layer is rounded."""
        target = self.sample if candidate.left is None else candidate.left
        errors = candidate.tensor.dequantize() - target
        if self.metric is None or candidate.weight.rounding not in METRIC_ROUNDINGS:
            return errors
        return self.metric.expected(errors, self.metric.groups_of(self.channels, self.outputs))

    def best_by_format(self, most: int) -> "FittedCandidates":
        """Of each format those that are worth their bits, at most so many; of learned tables alike."""
        kept: list[Candidate] = []
        for name in dict.fromkeys(short_name(c.weight.format) for c in self.candidates):
            own = [c for c in self.candidates if short_name(c.weight.format) == name]
            kept += [own[i] for _, _, i in _thinned(_undominated(_points(own)), most)]
        return replace(self, candidates=tuple(sorted(kept, key=_cost)))


def candidates_of(
    node: Node,
    target: Target,
    *,
    formats: Sequence[str] = FORMATS,
    granularities: Sequence[str] | None = None,
    rule: str = "output-mse",
    scale_format: str = SHORT_SCALES,
    rounding: str = "nearest",
    expanded: bool = False,
) -> list[WeightPlan]:
    """What a layer may take.

    Args:
        node: a layer with constant weights.
        target: formats that it has no integer arithmetic for are left out.
        formats: names; "lut4" is a table learned for the layer.
        granularities: "channel" or "group<N>"; groups go with formats of at most 4 bits and layers of more inputs.
            None: GRANULARITIES, or "channel" alone where the target takes groups only when they are asked for.
        rule: of the scales.
        scale_format: of the channel scales of 4-bit formats; wider formats are tried with float32, too.
        rounding: of the plans.
        expanded: its weights become floats when the model is loaded, so no arithmetic is needed.

    Raises:
        FormatError: there is no such format.
    """
    weight = node.inputs[1]
    assert weight is not None
    dims = weight.dims
    inputs = dims[-2] if node.op in ("Gemm", "MatMul") else int(np.prod(dims[1:]))
    if granularities is None:
        granularities = GRANULARITIES if target.rules.group_scales else ("channel",)
    plans = []
    for name in formats:
        fmt = format_of(name)
        if not expanded and not target.supports(node.op, fmt).yes:
            continue
        for granularity in granularities:
            size = group_size(granularity)
            if size and not (has_group_table(fmt) and 1 < size < inputs):
                continue
            scales = [scale_format] if fmt.bits < 8 else dict.fromkeys(("float32", scale_format))
            chosen = EIGHT_BIT_ROUNDING if fmt.bits >= 8 and rounding in METRIC_ROUNDINGS else rounding
            plans += [WeightPlan(name, granularity, rule, s, chosen) for s in scales]
    return plans


def group_size(granularity: str) -> int:
    """Inputs a group; 0 for scales per channel or tensor."""
    return int(granularity.removeprefix("group")) if granularity.startswith("group") else 0


def fit_candidates(
    rows: F32,
    plans: Sequence[WeightPlan],
    *,
    importance: F32 | None = None,
    metric: InputMetric | None = None,
    min_scale: F32 | None = None,
    rounded: Rounding | None = None,
    sample_weights: int = SAMPLE_WEIGHTS,
    most: int = MOST,
    prune: bool = True,
    by_format: int = 0,
) -> FittedCandidates:
    """Fit the plans of one layer and keep those that are worth their bits.

    Args:
        rows: (C, K) float32 weights, finite and not empty.
        plans: of `candidates_of`.
        importance: (K,) second moments of the inputs; None: all alike, and "output-mse" becomes "mse".
        metric: of the layer's rounding errors, for plans of METRIC_ROUNDINGS.
        min_scale: (C,) least channel scales, as in `fit`.
        rounded: what becomes of nearest codes of "kernel-sums"; applied to those kept.
        sample_weights: of layers with more weights channels spread evenly are tried, of at least so many.
        most: candidates kept; where there are more, those that the others replace best go.
        prune: drop candidates; else all are fitted and kept.
        by_format: where none are dropped, at most so many of each format are fitted, by their estimates; 0: all.
    """
    channels = np.arange(0, len(rows), max(1, rows.size // sample_weights))
    sample = np.ascontiguousarray(rows[channels], np.float32)
    floors = None if min_scale is None else min_scale[channels]
    nearest = _Layer(sample, importance, floors, len(rows), None if metric is None else metric.sizes)
    layers = {False: nearest}
    if metric is not None:
        layers[True] = _Layer(sample, metric.importance, floors, len(rows), metric.variances)
    found = []
    for by_metric, fitting in layers.items():
        own = [p for p in plans if (metric is not None and p.rounding in METRIC_ROUNDINGS) is by_metric]
        found += [*fitting.coarse(own, prune=prune, by_format=by_format), *fitting.exact(own)]
    kept = sorted(found, key=_cost)
    if prune:
        kept = [found[i] for _, _, i in _thinned(_undominated(_points(found)), most)]
    if rounded is not None:
        kept = [
            nearest.candidate(c.weight, rounded(sample, c.tensor))
            if c.weight.rounding == EIGHT_BIT_ROUNDING
            else c
            for c in kept
        ]
    return FittedCandidates(channels, sample, tuple(kept), metric, len(rows))


class _Layer:
    """Some channels of a layer, and how many it has."""

    def __init__(
        self,
        sample: F32,
        importance: F32 | None,
        min_scale: F32 | None,
        outputs: int,
        costs: F32 | None = None,
    ) -> None:
        self.sample, self.min_scale, self.outputs = sample, min_scale, outputs
        self.importance = importance
        columns = sample.shape[1]
        self.h = (
            np.ones(columns, np.float32) if importance is None else damped_importance(importance, columns)
        )
        self.costs = self.h if costs is None else costs  # of squared errors, comparable between roundings

    def candidate(self, plan: WeightPlan, tensor: QuantizedTensor) -> Candidate:
        loss = weighted_loss(self.sample, tensor, self.costs) * self.outputs / len(self.sample)
        return Candidate(plan, tensor, loss, self.bits(plan))

    def bits(self, plan: WeightPlan) -> int:
        shape = (self.outputs, self.sample.shape[1])
        table = format_of(plan.format).codebook_bits
        return stored_bits(shape, LayerFormat(plan, kernel=Kernel.WEIGHT_ONLY)) + table

    def coarse(self, plans: Sequence[WeightPlan], *, prune: bool, by_format: int = 0) -> list[Candidate]:
        """Those that share work (searched scales, a group table); pruned: estimated near the best of their size.

        Not pruned, at most `by_format` of a format, unless 0.
        """
        found = []
        for scale_format in dict.fromkeys(p.scale_format for p in plans):
            todo = [p for p in plans if p.scale_format == scale_format and _shares(p)]
            if not todo:
                continue
            shared = CoarseFit(
                self.sample,
                self.h,
                [group_size(p.granularity) for p in todo],
                scale_format=scale_format,
                min_scale=self.min_scale,
            )
            estimates = self._estimated(shared, todo)
            if by_format and not prune:
                estimates = self._worth_fitting(estimates, by_format)
            best: dict[int, float] = {}
            for _, e in estimates:
                best[e.size] = min(best.get(e.size, np.inf), e.loss)
            found += [
                self.candidate(replace(p, format=e.format.name), shared.fitted(e))
                for p, e in estimates
                if not prune or e.loss <= best[e.size] * (1 + _DOUBT)
            ]
        return found

    def _estimated(self, shared: CoarseFit, plans: Sequence[WeightPlan]) -> list[tuple[WeightPlan, Estimate]]:
        found = []
        for name in dict.fromkeys(p.format for p in plans):
            wanted = {group_size(p.granularity): p for p in plans if p.format == name}
            tables: dict[bool, NumberFormat] = {}
            for grouped in {size != CHANNEL for size in wanted}:
                tables[grouped] = self._learned(plans[0], grouped) if name == LEARNED else resolve(name)
            for fmt in dict.fromkeys(tables.values()):
                for estimate in shared.estimates(fmt):
                    plan = wanted.get(estimate.size)
                    if plan is not None and tables[estimate.size != CHANNEL] == fmt:
                        found.append((plan, estimate))
        return found

    def _worth_fitting(
        self, estimates: Sequence[tuple[WeightPlan, Estimate]], by_format: int
    ) -> list[tuple[WeightPlan, Estimate]]:
        """At most so many of a format: none that loses more than a cheaper one, then those that add most."""
        kept = []
        for name in dict.fromkeys(p.format for p, _ in estimates):
            own = [(self.bits(p), e.loss, i) for i, (p, e) in enumerate(estimates) if p.format == name]
            kept += _thinned(_undominated(own), by_format)
        return [estimates[i] for _, _, i in sorted(kept, key=lambda k: k[2])]

    def _learned(self, plan: WeightPlan, grouped: bool) -> NumberFormat:
        step = max(1, self.sample.size // TABLE_WEIGHTS)
        fitting = Fitting(
            "group" if grouped else "channel",
            TABLE_GROUP,
            self._rule(plan.scale_rule),
            plan.scale_format,
            self.importance,
            None if self.min_scale is None else self.min_scale[::step],
        )
        return fit_codebook(self.sample[::step], fitting, rounds=TABLE_ROUNDS, starts=TABLE_STARTS).format

    def exact(self, plans: Sequence[WeightPlan]) -> list[Candidate]:
        """All others, by `fit`."""
        found = []
        for plan in plans:
            if not _shares(plan):
                size = group_size(plan.granularity)
                tensor = fit(
                    self.sample,
                    resolve(plan.format),
                    granularity="group" if size else plan.granularity,
                    group_size=size or TABLE_GROUP,
                    rule=self._rule(plan.scale_rule),
                    scale_format=plan.scale_format,
                    importance=self.importance,
                    min_scale=self.min_scale,
                )
                found.append(self.candidate(plan, tensor))
        return found

    def _rule(self, name: str) -> str:
        return "mse" if name == "output-mse" and self.importance is None else name


def _shares(plan: WeightPlan) -> bool:
    searched = plan.scale_rule in ("mse", "output-mse") and plan.granularity != "tensor"
    return plan.format == LEARNED or (searched and has_group_table(resolve(plan.format)))


def _cost(candidate: Candidate) -> tuple[int, float]:
    return candidate.bits, candidate.loss


Point = tuple[int, float, int]  # bits, loss, index


def _points(candidates: Sequence[Candidate]) -> list[Point]:
    return [(*_cost(c), i) for i, c in enumerate(candidates)]


def _undominated(found: Sequence[Point]) -> list[Point]:
    """Cheapest first, each with less loss than all before it."""
    kept: list[Point] = []
    for point in sorted(found):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def _thinned(kept: list[Point], most: int) -> list[Point]:
    """At most so many: of inner ones the one goes that adds least area to the curve of loss over bits."""
    kept = list(kept)
    while len(kept) > max(most, 2):
        gains = [
            (kept[i - 1][1] - kept[i][1]) * (kept[i + 1][0] - kept[i][0]) for i in range(1, len(kept) - 1)
        ]
        del kept[int(np.argmin(gains)) + 1]
    return kept
