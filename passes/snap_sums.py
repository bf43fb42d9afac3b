"""Choose the scales of what is summed so that a sum multiplies by few bits.

y = a + b on integers is q_y = (s_a / s_y) q_a + (s_b / s_y) q_b: two multipliers an element, at 16 bits each as dear as
the products of a small layer. The scale of y stays, those of a and b are widened to the next multiplier of few bits, in
the order of execution backwards, so that a sum that is summed again has its scale before its own operands get theirs.
Widening costs part of a step of 8 bits: an eighth at most with 4 bits, a quarter with 3. [neseem2024, notes sec. 2.4,
7: scales absorbed]
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.ir.cones import table_cones
from lpcompile.ir.facts import Fact
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.materialise.functions import Unit, units
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import RequantPlan
from lpcompile.quant.multipliers import grid_around, held_multipliers
from lpcompile.records import PassReport

EXACT = 1e-6  # relative; scales are float32
FLOATS = "it runs on floats"
SHARED = "an operand has its scale from another sum"


@dataclass(frozen=True, slots=True)
class SnapSums(Pass):
    """Scales of operands in ratios of few bits to those of their sums.

    Attributes:
        bits: of a multiplier; 1: powers of two.
    """

    name: ClassVar[str] = "snap-sums"
    summary: ClassVar[str] = "scales of what is summed, so that sums multiply by few bits"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    bits: int = 4

    def __post_init__(self) -> None:
        option_checks.between("bits", self.bits, 1, 16)

    @property
    def held(self) -> str:
        """How the multipliers of sums are held."""
        return "snap-po2" if self.bits == 1 else f"snap-dyadic-{self.bits}"

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Widen operands, last sum first."""
        report = PassReport(self.name)
        target = ctx.target
        tables = target is not None and target.rules.tables
        cones = table_cones(graph, held=graph.plan.activations.keys()) if tables else {}
        sums = [u for u in units(graph, cones) if u.cone is None and form_of(u.node) is Form.SUM]
        settled: set[str] = set()
        for unit in reversed(sums):
            self._snap(graph, unit, settled, report)
        on_integers = {u.node.name for u in sums}
        for node in [n for op in ("Add", "Sub") for n in graph.nodes(op)]:
            if node.name not in on_integers and len(data_inputs(node)) == 2:
                report.skip(node, FLOATS)
        return report

    def _snap(self, graph: LpGraph, unit: Unit, settled: set[str], report: PassReport) -> None:
        y = unit.output
        plans = graph.plan.activations
        operands = data_inputs(unit.node)
        if y is None or y.name not in plans or any(x.name not in plans for x in operands):
            report.skip(unit.node, FLOATS)
            return
        out = plans[y.name]
        settled.add(out.tie_group)
        wider = {}
        for x in operands:
            own = plans[x.name]
            ratio = np.array([own.scale / out.scale])
            if abs(held_multipliers(ratio, self.held)[0] / ratio[0] - 1) <= EXACT:
                continue
            if own.tie_group in settled:
                report.skip(unit.node, SHARED)
                return
            wider[own.tie_group] = float(np.float32(grid_around(ratio, self.bits)[1][0] * out.scale))
        for name, plan in plans.items():
            if plan.tie_group in wider:
                changed = replace(plan, scale=wider[plan.tie_group])
                graph.plan = graph.plan.with_activation(name, changed)
                report.change(name, "scale", f"{plan.scale:.6g}", f"{changed.scale:.6g}")
        settled |= {plans[x.name].tie_group for x in operands}
        requant = RequantPlan(self.held, "operands scaled to suit it")
        if graph.plan.requants.get(unit.node.name) != requant:
            graph.plan = graph.plan.with_requant(unit.node.name, requant)
            report.change(unit.node, f"sum as {self.held}")
