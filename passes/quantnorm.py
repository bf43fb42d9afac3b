"""Decide how the requantisation multipliers of layers, of norms that were not folded, and of sums are held.

M = a * s_w * s_x / s_y is slope of the norm, dequantisation and requantisation in one; the shift is made anew from the
M that is held. `snap` goes the other way: it takes the multiplier next to M that costs least, chooses the scales of the
weights so that M is exactly that, and rounds the weights again with them. [neseem2024, notes sec. 2.3]
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.formats.arrays import F64
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.cones import table_cones
from lpcompile.ir.facts import Fact
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.materialise.functions import Unit, units
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.rounded_again import layer_rows, rounded_again
from lpcompile.passes.snapped_scales import multipliers_of, snapped
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import DUAL_SCALES, EIGHTHS, TARGETS_OWN, Kernel, LayerPlan, RequantPlan
from lpcompile.quant.multipliers import held_multipliers, is_snapped, multiplier_bits
from lpcompile.records import PassReport

MODES = ("dyadic", "po2", "snap", "snap-dyadic", "fold")
EXACT = 1e-6  # relative; scales are float32
FLOATS = "its output stays float, so nothing is requantised"
TABLES = "its channels have tables of their own, which were learned for their scales"
FOLDED = "mode 'fold' leaves every multiplier as the target has it"
NORM_FLOAT = "the norm runs on floats"
OF_TENSORS = "its operands have scales of their own"
SNAPPED = "its operands have scales that suit fewer bits"
OF_TWO = (Form.SUM, Form.PRODUCT)
LEAST_BITS = 8  # of what has no weights that could be rounded for it


@dataclass(frozen=True, slots=True)
class Quantnorm(Pass):
    """Multipliers of few bits, or shifts.

    Attributes:
        mode: dyadic: m * 2^e, m of few bits; po2: a shift; snap, snap-dyadic: exactly so, the weights' scales follow;
            fold: as the target has it.
        bits: of m, sign apart.
    """

    name: ClassVar[str] = "quantnorm"
    summary: ClassVar[str] = "requantisation multipliers, norms inside, in few bits or as shifts"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    mode: str = "dyadic"
    bits: int = 8

    def __post_init__(self) -> None:
        option_checks.one_of("mode", self.mode, MODES)
        option_checks.between("bits", self.bits, 2, 16)

    @property
    def held(self) -> str:
        """How multipliers of layers shall be held."""
        names = {"po2": "po2", "snap": "snap-po2", "fold": ""}
        return names.get(self.mode, f"{self.mode}-{self.bits}")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan the multiplier of everything that requantises; what already holds as wanted stays."""
        report = PassReport(self.name)
        target = ctx.target
        cones = (
            table_cones(graph, held=graph.plan.activations.keys()) if target and target.rules.tables else {}
        )
        done = set()
        for unit in units(graph, cones):
            name, layer = unit.node.name, graph.plan.layers.get(unit.node.name)
            wanted = self.held
            if ctx.decisions is not None:
                wanted = getattr(ctx.decisions.requants.get(name), "multiplier", "")
            done.add(name)
            form = None if unit.cone is not None else form_of(unit.node)
            if layer is None and form not in (Form.NORM, *OF_TWO):
                continue
            if not wanted:
                report.skip(name, FOLDED)
            elif layer is None and form in OF_TWO and is_snapped(_held(graph, name)):
                report.skip(name, SNAPPED)
            elif layer is None and form in OF_TWO:
                _of_two(graph, unit.node, wanted if ctx.decisions else at_least(wanted), report)
            elif layer is None:
                self._norm(graph, unit.node, wanted, report)
            elif layer.kernel is not Kernel.INTEGER or layer.tensor is None or unit.output is None:
                report.skip(name, FLOATS)
            elif layer.weight.scale_format == DUAL_SCALES:
                report.skip(name, EIGHTHS)
            else:
                _Layer(graph, ctx, unit, layer, report).hold(wanted)
        for node in graph.nodes("BatchNormalization"):
            if node.name not in done:
                report.skip(node, NORM_FLOAT)
        bits = [multiplier_bits(r.multiplier) for r in graph.plan.requants.values()]
        report.metrics |= {"held_multipliers": len(bits), "shifts": bits.count(1)}
        return report

    def _norm(self, graph: LpGraph, node: Node, wanted: str, report: PassReport) -> None:
        """A norm has no weights whose scales could be chosen: snapping leaves it a multiplier of `bits`."""
        if is_snapped(wanted):
            wanted = f"dyadic-{max(self.bits, LEAST_BITS)}"
        norm = channel_norm(with_planned_constants(graph).node(node.name))
        assert norm is not None
        plan = RequantPlan(wanted, "a norm that no layer took in", norm.centre)
        if graph.plan.requants.get(node.name) == plan:
            return
        graph.plan = graph.plan.with_requant(node.name, plan)
        off = _largest_error(norm.scale, held_multipliers(norm.scale, wanted))
        report.change(node, f"norm as {wanted}", after=f"slopes off by {100 * off:.2g} % at most")


def at_least(wanted: str) -> str:
    """What sums and products of two tensors take: their scales are those of tensors that others read, too."""
    return f"dyadic-{max(LEAST_BITS, multiplier_bits(wanted))}"


def _held(graph: LpGraph, name: str) -> str:
    return graph.plan.requants.get(name, TARGETS_OWN).multiplier


def _of_two(graph: LpGraph, node: Node, held: str, report: PassReport) -> None:
    if graph.plan.requants.get(node.name) != RequantPlan(held, OF_TENSORS):
        graph.plan = graph.plan.with_requant(node.name, RequantPlan(held, OF_TENSORS))
        report.change(node, f"multipliers as {held}")


@dataclass(frozen=True)
class _Layer:
    """One layer on integers."""

    graph: LpGraph
    ctx: PassContext
    unit: Unit
    plan: LayerPlan
    report: PassReport

    def hold(self, wanted: str) -> None:
        """Plan its multiplier, and its weights where they are to follow."""
        node, graph = self.unit.node, self.graph
        before = graph.plan.requants.get(node.name)
        m = self._multipliers(self.plan)
        if before is not None:
            exact = _largest_error(m, held_multipliers(m, before.multiplier)) < EXACT
            if before.multiplier == wanted and (exact or not is_snapped(wanted)):
                return
            if is_snapped(before.multiplier) and exact and not is_snapped(wanted):
                self.report.skip(node, "its weights suit their multipliers already")
                return
        if is_snapped(wanted) and self.plan.weight.codebooks:
            self.report.skip(node, TABLES)
            wanted = wanted.removeprefix("snap-")
        if is_snapped(wanted):
            self._snap(wanted, m)
        else:
            self._round(wanted, m)

    def _multipliers(self, plan: LayerPlan) -> F64:
        assert self.unit.output is not None
        return multipliers_of(self.unit.node, plan, self.graph.plan, self.unit.output)

    def _round(self, wanted: str, m: F64) -> None:
        node, tensor = self.unit.node, self.plan.tensor
        assert tensor is not None
        mean = mean_inputs(node, self.ctx.statistics, self.ctx.metrics)
        turns = mean is not None and not bias_obstacle(node, self.plan.kernel)
        centre = np.einsum("ok,ok->o", tensor.dequantize(), mean) if turns and mean is not None else None
        off = _largest_error(m, held_multipliers(m, wanted))
        self.graph.plan = self.graph.plan.with_requant(node.name, RequantPlan(wanted, "rounded", centre))
        self.report.change(node, f"multiplier as {wanted}", after=f"off by {100 * off:.2g} % at most")

    def _snap(self, wanted: str, m: F64) -> None:
        node, tensor, name = self.unit.node, self.plan.tensor, self.unit.node.name
        assert tensor is not None
        rows, metric = layer_rows(node), self.ctx.metrics.get(name)
        floor = least_scale(self.graph, node, self.plan.kernel, self.plan.weight)
        importance = None if metric is None else metric.sizes
        scaled, ratio = snapped(rows, tensor, m, multiplier_bits(wanted), importance, floor)
        plan = rounded_again(node, self.plan, scaled, self.ctx)
        assert plan.tensor is not None
        changed = int((plan.tensor.codes != tensor.codes).sum())
        held = RequantPlan(wanted, "weights rounded with scales that suit it")
        self.graph.plan = self.graph.plan.with_layer(name, plan).with_requant(name, held)
        span = f"scales times {ratio.min():.3g} to {ratio.max():.3g}"
        self.report.change(
            node, f"weights for {wanted}", after=f"{span}, {changed} of {rows.size} codes changed"
        )


def _largest_error(wanted: F64, found: F64) -> float:
    """Largest relative error."""
    safe = np.where(wanted == 0, 1.0, wanted)
    return float(np.abs((found - wanted) / safe).max(initial=0.0))
