"""Measure anew what batch norms that stayed in the graph take out, once everything around them is rounded.

Rounding moves mean and variance of what a norm reads, and its stored ones fit no more. In execution order, each norm
gets the scale and shift with which every channel of what it gives has the mean and the variance that the float network
has there. Batch norms spelled as Mul (or Div) and Add (or Sub) of constants a channel are norms, too. [sun2019]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile.analysis.channel_moments import ChannelMoments
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.formats.arrays import F64
from lpcompile.ir.channel_norm import ChannelNorm, channel_norm
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.passes.constant_inputs import output_at
from lpcompile.passes.expected_time import labelled, samples_of
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import NormPlan
from lpcompile.records import PassReport

REESTIMATED = "re-estimated"
LEAST = 1e-4  # of a channel's standard deviation; less is no move
LIMITS = (0.5, 2.0)  # of the scale: more is the chance of few samples


@dataclass(frozen=True, slots=True)
class ReestimateBatchnorm(Pass):
    """Batch norm re-estimation."""

    name: ClassVar[str] = "reestimate-batchnorm"
    summary: ClassVar[str] = "batch norms that stayed give the float network's means and variances again"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan constants of norms, one norm after the other, where the network as a whole gained by them."""
        report = PassReport(self.name)
        found: list[tuple[Node, ChannelNorm]] = []
        for node in remaining_norms(graph):
            norm = channel_norm(node)
            if norm is None:
                report.skip(node, "its parameters are not constant, or it is in training mode")
            elif ctx.calibration is None or ctx.calibration.generated or ctx.observe is None:
                report.skip(node, "no calibration data to measure it on")
            else:
                found.append((node, norm))
        if not found:
            return report
        before = graph.plan
        wanted = _moments(graph, ctx, found)
        total = len(found)
        assert ctx.calibration is not None
        label = labelled(
            "re-estimating norms", graph, ctx, total * samples_of(graph, ctx.calibration.deciding), 0
        )
        for i, (node, norm) in enumerate(found):
            ctx.progress(label, i, total)
            (now,) = _moments(rounded_network(graph, graph.plan), ctx, [(node, norm)])
            _reestimate(graph, node, wanted[i], now, report)
        ctx.progress(label, total, total)
        keep_if_better(graph, ctx, before, report, stays="norms stay")
        return report


def remaining_norms(graph: LpGraph) -> list[Node]:
    """Batch norms, scales by channel, and shifts by channel of these, in execution order."""
    found: dict[str, Node] = {}
    for node in graph.nodes():
        if node.domain:
            continue
        if node.op == "BatchNormalization":
            found[node.name] = node
        elif channel_norm(node) is not None:
            makers = [v.producer.name for v in node.inputs if v is not None and v.producer is not None]
            if node.op in ("Mul", "Div") or any(m in found and found[m].op in ("Mul", "Div") for m in makers):
                found[node.name] = node
    return list(found.values())


def _moments(
    graph: LpGraph, ctx: PassContext, norms: Sequence[tuple[Node, ChannelNorm]]
) -> list[ChannelMoments]:
    """Of what norms give, over the deciding calls."""
    assert ctx.observe is not None
    assert ctx.calibration is not None
    tensors = [output_at(node).name for node, _ in norms]
    found = [ChannelMoments(norm.trailing) for _, norm in norms]
    run = ctx.observe(graph, tensors)
    for call in ctx.calibration.deciding:
        values = run(call)
        for moments, tensor in zip(found, tensors, strict=True):
            moments.add(values[tensor])
    return found


def _reestimate(
    graph: LpGraph, node: Node, wanted: ChannelMoments, now: ChannelMoments, report: PassReport
) -> None:
    """Plan the constants of one norm."""
    spread = np.maximum(wanted.deviation, now.deviation)
    if not (np.isfinite(spread).all() and np.isfinite(wanted.mean).all() and np.isfinite(now.mean).all()):
        report.skip(node, "what it gives is not finite on the samples")
        return
    ratio = np.ones_like(spread)
    known = (wanted.deviation > 0) & (now.deviation > 0)  # a channel of one value says nothing of its scale
    ratio[known] = np.clip(wanted.deviation[known] / now.deviation[known], *LIMITS)
    apart = wanted.mean - now.mean
    moves = node.op != "Mul" and node.op != "Div"
    scales = node.op not in ("Add", "Sub")
    shifted = float((np.abs(apart[known]) / spread[known]).max(initial=0.0)) if moves else 0.0
    scaled = float(np.abs(ratio - 1).max(initial=0.0)) if scales else 0.0
    if max(shifted, scaled) < LEAST:
        report.skip(node, "what it gives has the mean and the variance of the float network")
        return
    planned = with_planned_constants(graph).node(node.name)
    constants = _constants(planned, ratio, apart, now.mean)
    graph.plan = graph.plan.with_norm(node.name, NormPlan.of(constants, REESTIMATED))
    said = [f"mean by {100 * shifted:.2g} % of its deviation"] if moves else []
    said += [f"scale by {100 * scaled:.2g} %"] if scales else []
    report.change(node, REESTIMATED, after=", ".join(said) + " at most")


def _constants(node: Node, ratio: F64, apart: F64, mean: F64) -> dict[int, np.ndarray]:
    """New constants of a norm by number of its input.

    Args:
        node: with the constants it has now.
        ratio: (C,) wanted over present deviation.
        apart: (C,) wanted less present mean.
        mean: (C,) present mean.
    """
    if node.op == "BatchNormalization":
        gamma, _, stored, _ = (np.asarray(v.values, np.float64) for v in node.inputs[1:5] if v is not None)
        norm = channel_norm(node)
        assert norm is not None
        shift = mean + apart - ratio * (mean - norm.shift)
        return {
            1: np.asarray(gamma * ratio, np.float32),
            2: np.asarray(shift + stored * norm.scale * ratio, np.float32),
        }
    at = next(i for i, v in enumerate(node.inputs) if v is not None and v.is_constant)
    value = node.inputs[at]
    assert value is not None
    c = np.asarray(value.values, np.float64)
    if node.op in ("Mul", "Div"):
        factor = ratio.reshape(c.shape)
        made = c * factor if node.op == "Mul" else c / factor
    else:
        moved = apart.reshape(c.shape)
        made = c - moved if node.op == "Sub" and at == 1 else c + moved
    return {at: np.asarray(made, np.float32)}
