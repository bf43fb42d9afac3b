"""Scale channels of activations so that rounding them, and the weights that read them, loses less.

x / s before and w s after leave the float network as it is. [nagel2019, sec. 4.1; xiao2023; lin2024]

`method=output-error` follows tensors both ways to all layers and norms that make them and read them, and chooses s by
the error at the outputs of the readers in their planned formats. `method=ranges` is a closed rule for convolutions
with a Relu between and 8 bits (docs/decisions/0017), and costs next to nothing. `absorb` moves biases through
rectifiers first, where the samples show that it is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.channel_samples import ChannelSample
from lpcompile.analysis.grams import Grams
from lpcompile.analysis.scaling_search import search
from lpcompile.ir.factor_flow import Index, Side
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.scaling_groups import ScalingGroup, scaling_groups
from lpcompile.passes.absorb_bias import absorb_biases
from lpcompile.passes.equalize_ranges import equalize_ranges, some_calls
from lpcompile.passes.scaling_folds import fold, fold_obstacle
from lpcompile.passes.scaling_readers import group_parts, observed, planned_kernels, reader_of
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel
from lpcompile.records import PassReport

METHODS = ("output-error", "ranges")
MOST_CALLS = 16  # evenly spread
SHOWN = 4  # names in a report


@dataclass(frozen=True, slots=True)
class Equalize(Pass):
    """Channels scaled between layers; each network is scaled once.

    Attributes:
        method: output-error: by the error of the readers' outputs, on samples; ranges: a closed rule, without samples.
        absorb: move biases through rectifiers first, where the samples show that it is exact.
    """

    name: ClassVar[str] = "equalize"
    summary: ClassVar[str] = "channels scaled between layers, so that rounding loses less"
    takes: ClassVar[tuple[str, ...]] = (
        "calibration",
        "target",
        "seed",
        "threads",
        "keep_float",
        "followed_by",
    )
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.CHANNELS_EQUALIZED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    method: str = "output-error"
    absorb: bool = False

    def __post_init__(self) -> None:
        option_checks.one_of("method", self.method, METHODS)
        if self.absorb and self.method == "ranges":
            raise ValueError("option 'absorb' goes with method=output-error")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Scale where the error at the outputs of the readers falls."""
        report = PassReport(self.name)
        if Fact.CHANNELS_EQUALIZED in graph.facts or ctx.calibration is None or ctx.observe is None:
            return report
        if self.method == "ranges":
            equalize_ranges(graph, ctx.calibration, ctx.observe, report)
            return report
        if self.absorb and not ctx.calibration.generated:
            absorb_biases(graph, ctx.calibration.deciding, ctx.observe, report)
        groups, skipped = scaling_groups(graph)
        for name, reason in skipped.items():
            report.skip(name, reason)
        groups = [g for g in groups if _possible(g, report, generated=ctx.calibration.generated)]
        if groups:
            _scale(graph, groups, ctx, report)
        return report


def _possible(group: ScalingGroup, report: PassReport, *, generated: bool) -> bool:
    reason = "generated inputs say little of single channels" if generated else fold_obstacle(group)
    for part in group.of(Side.READS):
        if reason:
            report.skip(part.node, reason)
    return not reason


def _scale(graph: LpGraph, groups: list[ScalingGroup], ctx: PassContext, report: PassReport) -> None:
    assert ctx.calibration is not None
    calls = some_calls(graph, ctx.calibration.deciding, MOST_CALLS)
    kernels, done = planned_kernels(graph, ctx), 0
    for portion in group_parts(graph, groups):
        samples, grams = observed(graph, portion, calls, ctx)
        for group in portion:
            done += 1
            ctx.progress("equalizing channels", done, len(groups))
            _scale_group(graph, group, samples, grams, kernels, ctx, report)


def _scale_group(
    graph: LpGraph,
    group: ScalingGroup,
    samples: dict[str, ChannelSample],
    grams: Grams,
    kernels: dict[str, Kernel],
    ctx: PassContext,
    report: PassReport,
) -> None:
    parts = group.of(Side.READS)
    reason = next((grams.left_out[p.node.name] for p in parts if p.node.name in grams.left_out), "")
    found = None
    if not reason:
        found = search(
            [reader_of(p, grams, samples, kernels, ctx) for p in parts],
            group.size,
            [
                (_spread(group.tensors[v], samples[v.name]), samples[v.name], b)
                for v, b in group.limits.items()
            ],
        )
        reason = "" if found else "no factors that were tried lose less"
    if found is None:
        for part in parts:
            report.skip(part.node, reason)
        return
    fold(graph, group, found.factors)
    makers = [p.node.name for p in group.of(Side.WRITES, Side.SCALES)]
    shown = ", ".join(makers[:SHOWN]) + (f" and {len(makers) - SHOWN} more" if len(makers) > SHOWN else "")
    factors = 1 / found.factors[1:]
    for part in parts:
        report.change(
            part.node,
            f"channels scaled by {found.rule}, from {shown}",
            after=f"{factors.min():.3g} to {factors.max():.3g} times; error {-found.gain_db:.1f} dB",
        )


def _spread(index: Index, sample: ChannelSample) -> Index:
    return np.broadcast_to(index.reshape(-1), sample.peak.shape)
