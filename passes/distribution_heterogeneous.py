"""Formats by what a layer of a separable network is: depthwise, pointwise, or an end.

Weights of depthwise layers spread differently from channel to channel and are few: 8 bits, linear. Pointwise layers
hold nearly all products: 4 bits. Powers of two (`pot4`) make those products shifts, at some 5 dB of SQNR for weights
that are distributed like Gaussians, where their error is that of linear 4-bit weights only beyond a kurtosis of about
10. So they are taken only where they are asked for, by name or by the rule

    argmin over formats of  noise / signal of the weights + lambda * ACEv2 of a product / ACEv2 of 8 x 8 bits

[neseem2024, notes sec. 2.5; the direction is inferred there]
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.macs import layer_shape
from lpcompile.assignment.layer_facts import LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import acev2_by_class, layer_operations
from lpcompile.formats.base import resolve
from lpcompile.formats.planned import format_of, planned_name, short_name
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel, LayerPlan, WeightPlan
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

SHIFTS = "pot4"
POT4 = ("never", "pointwise", "rule")
FLOAT = "it stays float"
DECIDED = "its format was decided before"
ENDS = "first or last layer"


@dataclass(frozen=True, slots=True)
class DistributionHeterogeneous(Pass):
    """A format for each kind of layer.

    Attributes:
        depthwise: format of depthwise layers.
        format: of the others.
        ends: format of the first and the last layer.
        last: format of the last layer, where it is another one; empty: as `ends` has it.
        pot4: powers of two for pointwise layers: never, pointwise (all), or rule (see above).
        weight: lambda of the rule.
    """

    name: ClassVar[str] = "distribution-heterogeneous"
    summary: ClassVar[str] = (
        "depthwise layers and both ends in 8 bits, pointwise ones in 4; powers of two on request"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    depthwise: str = "int8"
    format: str = "fixp4"
    ends: str = "int8"
    last: str = ""
    pot4: str = "never"
    weight: float = 0.1  # lambda of the rule

    def __post_init__(self) -> None:
        option_checks.one_of("pot4", self.pot4, POT4)
        option_checks.not_negative("weight", self.weight)
        for name in (self.depthwise, self.format, self.ends, *filter(None, [self.last])):
            format_of(name)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan the formats of all layers that will be rounded; a replay has them already."""
        report = PassReport(self.name)
        layers = [n for n in graph.layers() if _plan(graph, n).kernel is not Kernel.FLOAT]
        for node in graph.layers():
            plan = _plan(graph, node)
            if plan.kernel is Kernel.FLOAT:
                report.skip(node, plan.reason or FLOAT)
            elif ctx.decisions is not None or plan.weight.format != "float32":
                report.skip(node, DECIDED)
            else:
                ends = {layers[-1]: self.last or self.ends, layers[0]: self.ends}
                fmt, reason = self._choice(node, ends.get(node, ""))
                usual = ctx.weights or WeightPlan()
                weight = replace(usual, format=planned_name(fmt), granularity=_granularity(usual, fmt))
                plan = replace(plan, weight=weight, reason=plan.reason or reason)
                graph.plan = graph.plan.with_layer(node.name, plan)
                report.change(node, f"{short_name(fmt)}: {reason}")
        return report

    def _choice(self, node: Node, of_end: str) -> tuple[str, str]:
        shape = layer_shape(node)
        if shape.depthwise:
            return self.depthwise, "depthwise"
        if of_end:
            return of_end, ENDS
        if self.pot4 == "never" or not _is_pointwise(node):
            return self.format, "pointwise" if _is_pointwise(node) else "sums of many products"
        if self.pot4 == "pointwise":
            return SHIFTS, "pointwise, powers of two as asked"
        prices = {f: self.price(node, f) for f in (self.format, SHIFTS)}
        best = min(prices, key=lambda f: prices[f])
        return best, "pointwise, " + ", ".join(f"{f} {p:.3g}" for f, p in prices.items())

    def price(self, node: Node, fmt: str) -> float:
        """What the rule minimises."""
        weight = node.inputs[1]
        assert weight is not None
        rows = np.asarray(to_rows(node.op, weight.values), np.float32)
        signal = float(np.square(rows, dtype=np.float64).sum())
        error = fit(rows, resolve(fmt), rule="mse").dequantize() - rows
        noise = float(np.square(error, dtype=np.float64).sum())
        costs = [_acev2_of_a_product(node, f) for f in (fmt, "int8")]
        return (noise / signal if signal else 0.0) + self.weight * costs[0] / costs[1]


def _acev2_of_a_product(node: Node, fmt: str) -> float:
    held = LayerFormat(WeightPlan(fmt), 8, Kernel.INTEGER)
    by_class = acev2_by_class(layer_operations(replace(layer_facts(node), macs=1, output_elements=0), held))
    return sum(by_class.values())


def _is_pointwise(node: Node) -> bool:
    weight = node.inputs[1]
    assert weight is not None
    return node.op == "Conv" and all(d == 1 for d in weight.dims[2:]) and node.attrs.get("group", 1) == 1


def _granularity(usual: WeightPlan, fmt: str) -> str:
    """Integer groups go with formats of at most 4 bits."""
    return "channel" if format_of(fmt).bits > 4 else usual.granularity


def _plan(graph: LpGraph, node: Node) -> LayerPlan:
    return graph.plan.layers.get(node.name, LayerPlan())
