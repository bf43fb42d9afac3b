"""Scale channels of activations so that rounding them, and the weights that read them, loses less.

x / s before and w s after leave the float network as it is. [nagel2019, sec. 4.1; xiao2023; lin2024]

`method=output-error` follows tensors both ways to all layers and norms that make them and read them, and chooses s by
the error at the outputs of the readers in their planned formats. `method=ranges` is a closed rule for convolutions
with a Relu between and 8 bits (docs/decisions/0017), and costs next to nothing.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile.analysis.channel_samples import ChannelSample, sample_channels
from lpcompile.analysis.grams import Grams, gather_grams
from lpcompile.analysis.layer_kernels import choose_kernels
from lpcompile.analysis.scaling_search import MOST_ROWS, Reader, search
from lpcompile.formats.planned import LEARNED
from lpcompile.ir.factor_flow import Part, Side
from lpcompile.ir.factor_rules import row_axis
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.scaling_groups import ScalingGroup, scaling_groups
from lpcompile.ir.value import Value
from lpcompile.passes.equalize_ranges import equalize_ranges
from lpcompile.passes.scaling_folds import fold, fold_obstacle
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import ActivationOptions, Kernel, WeightPlan
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

METHODS = ("output-error", "ranges")
MOST_CALLS = 16  # evenly spread
ROWS_PER_INPUT, LEAST_ROWS = 4, 2048  # of the moments
LEVELS = {"uint8": 256, "uint4": 16}
USUAL = WeightPlan("int8", scale_rule="mse")  # where the formats of weights are yet to be chosen
USUAL_TABLE = "nf4"  # stands for tables that are yet to be learned


@dataclass(frozen=True, slots=True)
class Equalize(Pass):
    """Channels scaled between layers; each network is scaled once."""

    name: ClassVar[str] = "equalize"
    summary: ClassVar[str] = "channels scaled between layers, so that rounding loses less"
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.CHANNELS_EQUALIZED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    method: str = "output-error"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"option 'method' is one of {', '.join(METHODS)}, not '{self.method}'")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Scale where the error at the outputs of the readers falls."""
        report = PassReport(self.name)
        if Fact.CHANNELS_EQUALIZED in graph.facts or ctx.calibration is None or ctx.observe is None:
            return report
        if self.method == "ranges":
            equalize_ranges(graph, ctx.calibration, ctx.observe, report)
            return report
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
    assert ctx.observe is not None
    deciding = ctx.calibration.deciding
    at = np.unique(np.linspace(0, len(deciding) - 1, min(MOST_CALLS, len(deciding))).astype(int))
    calls = [deciding[i] for i in at]
    readers = [p.node for g in groups for p in g.of(Side.READS)]
    axes = {x.name: row_axis(n, len(x.shape or ())) for n in readers if (x := n.inputs[0]) is not None}
    axes |= {v.name: 1 for g in groups for v in g.limits}
    samples = sample_channels(ctx.observe(graph, list(axes)), calls, axes, ctx.rng)
    rows = max(LEAST_ROWS, ROWS_PER_INPUT * max(_inputs(n) for n in readers))
    grams = gather_grams(graph, [n.name for n in readers], ctx.observe, calls, most_rows=rows, seed=ctx.seed)
    kernels = _kernels(graph, ctx)
    for done, group in enumerate(groups):
        ctx.progress("equalizing channels", done + 1, len(groups))
        parts = group.of(Side.READS)
        if reason := next((grams.left_out[p.node.name] for p in parts if p.node.name in grams.left_out), ""):
            for part in parts:
                report.skip(part.node, reason)
            continue
        found = search(
            [_reader(p, grams, samples, kernels, ctx) for p in parts],
            group.size,
            [(i.reshape(-1), samples[v.name], group.limits[v]) for v, i in _limited(group)],
        )
        if found is None:
            for part in parts:
                report.skip(part.node, "no factors that were tried lose less")
            continue
        fold(graph, group, found.factors)
        makers = [p.node.name for p in group.of(Side.WRITES, Side.SCALES)]
        for part in parts:
            report.change(
                part.node,
                f"channels scaled by {found.rule}, from {', '.join(makers)}",
                after=f"{1 / found.factors.max():.3g} to {1 / found.factors.min():.3g} times;"
                f" error {-found.gain_db:.1f} dB",
            )


def _inputs(layer: Node) -> int:
    """Products that each output of a layer sums."""
    w = layer.inputs[1]
    return 1 if w is None else math.prod(w.dims[1:]) if layer.op == "Conv" else w.dims[0]


def _limited(group: ScalingGroup) -> list[tuple[Value, np.ndarray]]:
    return [(v, group.tensors[v]) for v in group.limits]


def _kernels(graph: LpGraph, ctx: PassContext) -> dict[str, Kernel]:
    """How each layer will run, as far as that is known."""
    if ctx.target is None:
        return {n.name: Kernel.INTEGER for n in graph.layers()}
    options = ctx.activations or ActivationOptions()
    chosen = choose_kernels(
        graph, ctx.target, calibrated=True, matmul=options.matmul, timed=options.timed, weights=ctx.weights
    )
    return {name: Kernel.FLOAT if name in ctx.keep_float else c.kernel for name, c in chosen.items()}


def _reader(
    part: Part,
    grams: Grams,
    samples: dict[str, ChannelSample],
    kernels: dict[str, Kernel],
    ctx: PassContext,
) -> Reader:
    node = part.node
    x, w = node.inputs[:2]
    assert x is not None
    assert w is not None
    rows = to_rows(node.op, w.values)
    at = np.unique(np.linspace(0, len(rows) - 1, min(MOST_ROWS, len(rows))).astype(int))
    group = int(node.attrs.get("group", 1))
    options = ctx.activations or ActivationOptions()
    weight = ctx.weights or USUAL
    if weight.format == LEARNED:
        weight = WeightPlan(USUAL_TABLE, weight.granularity, weight.scale_rule, weight.scale_format)
    return Reader(
        rows[at],
        at // (len(rows) // group),
        part.index,
        grams[node.name],
        samples[x.name],
        kernels.get(node.name, Kernel.FLOAT),
        LEVELS[options.format],
        weight,
    )
