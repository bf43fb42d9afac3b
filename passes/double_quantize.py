"""Quantise the channel scales of weights, then round the weights again with the scales that are stored.

In this order the error of a scale costs resolution, not gain. [neseem2024, notes sec. 2.4]
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.rounded_again import rounded_again
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import DUAL_SCALES, EIGHTHS, Kernel, LayerPlan
from lpcompile.quant.double_quantization import check_mode, with_quantised_scales
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.records import PassReport

MODES = ("po2", "dyadic", "linear")
HELD = "its scales are part of its requantisation multipliers"
ONE_SCALE = "one scale for the whole tensor"
TABLES = "its channels have tables of their own, which were learned for their scales"
FLOAT = "it keeps its float weights"
NOT_ASKED = "the decisions leave its scales as they are"


@dataclass(frozen=True, slots=True)
class DoubleQuantize(Pass):
    """Scales in 8 bits.

    Attributes:
        mode: po2: powers of two; dyadic: m * 2^e; linear: steps of the largest.
        bits: of m, or of the steps.
    """

    name: ClassVar[str] = "double-quantize"
    summary: ClassVar[str] = (
        "channel scales as powers of two, in few bits, or in steps of the largest; weights follow"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    mode: str = "dyadic"
    bits: int = 8

    def __post_init__(self) -> None:
        option_checks.one_of("mode", self.mode, MODES)
        option_checks.between("bits", self.bits, 2, 8)

    @property
    def scale_mode(self) -> str:
        """As plans name it."""
        return self.mode if self.mode == "po2" else f"{self.mode}-{self.bits}"

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Quantise the scales of every layer that has some of its own."""
        report = PassReport(self.name)
        for node in graph.layers():
            plan = graph.plan.layers.get(node.name, LayerPlan())
            asked = self.scale_mode if ctx.decisions is None else plan.weight.double_quantized
            if reason := self._obstacle(graph, node, plan, ctx):
                report.skip(node, reason)
            elif not asked:
                report.skip(node, NOT_ASKED)
            else:
                self._quantise(graph, node, plan, asked, ctx, report)
        return report

    @staticmethod
    def _obstacle(graph: LpGraph, node: Node, plan: LayerPlan, ctx: PassContext) -> str:
        if plan.tensor is None:
            return FLOAT
        if plan.weight.scale_format == DUAL_SCALES:
            return EIGHTHS
        dyadic = ctx.target is not None and ctx.target.rules.dyadic
        if plan.kernel is Kernel.INTEGER and (dyadic or node.name in graph.plan.requants):
            return HELD
        if channel_scales(plan.tensor).size <= 1:
            return ONE_SCALE
        return TABLES if plan.weight.codebooks else ""

    @staticmethod
    def _quantise(
        graph: LpGraph, node: Node, plan: LayerPlan, mode: str, ctx: PassContext, report: PassReport
    ) -> None:
        check_mode(mode)
        tensor = plan.tensor
        assert tensor is not None
        scaled = with_quantised_scales(tensor, mode)
        old, new = (channel_scales(t).astype(np.float64) for t in (tensor, scaled))
        if plan.weight.double_quantized == mode and np.array_equal(old, new):
            return
        found = rounded_again(node, plan, scaled, ctx)
        assert found.tensor is not None
        changed = int((found.tensor.codes != tensor.codes).sum())
        weight = replace(found.weight, double_quantized=mode)
        graph.plan = graph.plan.with_layer(node.name, replace(found, weight=weight))
        off = float(np.abs(new / old - 1).max())
        what = f"scales off by {100 * off:.2g} % at most, {changed} of {tensor.codes.size} codes changed"
        report.change(node, f"scales as {mode}", after=what)
