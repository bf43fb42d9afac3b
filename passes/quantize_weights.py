"""Round the weights of every planned layer to its format: channel scales, integer group scales, codes.

W^ = s_c * (m_g * i8[code]) with s_c stored in `scale-format` and m_g a 4-bit integer per group of inputs; scales are
quantised first and the codes chosen with the quantised scales. [architecture 3.1, 3.2]
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

from lpcompile import option_checks
from lpcompile.formats.group import has_group_table
from lpcompile.formats.planned import format_of, planned_name, short_name
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.input_metrics import input_metrics
from lpcompile.passes.path_inputs import path_inputs
from lpcompile.passes.rounded_layer import rounded_layer, with_codes_of, with_rounding
from lpcompile.pipeline import CarriedOut, Pass, PassContext
from lpcompile.plan import (
    ADAROUND,
    CONCAT_IN,
    METRIC_ROUNDINGS,
    ROUNDINGS,
    Kernel,
    LayerPlan,
    WeightPlan,
)
from lpcompile.quant.fit import LIMITED_RULES, RULES
from lpcompile.quant.input_metric import ROUNDS
from lpcompile.quant.peaks import peak_db
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

GRANULARITIES = ("tensor", "channel", "group")
SCALE_FORMATS = ("float32", "ufloat8_e4m4")
PEAKED = "gptq"  # how rows with few large weights are rounded
THREADS = 2
SHARED_BITS = 8  # of all copies of a weight together; more are one copy


@dataclass(frozen=True, slots=True)
class QuantizeWeights(Pass):
    """Scales are searched, codes chosen by `rounding`; the options are those of the recipe.

    Attributes:
        format: of layers that have no format of their own yet.
        granularity: what shares a scale: tensor, channel, or group (integer multipliers within a channel).
        group-size: inputs of a group.
        rule: how scales are found: absmax, percentile, mse, maxent, l1norm, output-mse; power-of-two and fixed limit
            the scale itself.
        scale-format: in which channel scales are stored: float32 or ufloat8_e4m4.
        rounding: how codes are chosen: nearest, kernel-sums, gptq, adaround.
        sweeps: of codes and scales in turn after GPTQ.
        rho: correlation of neighbouring inputs for kernel-sums; below 0: measured for each layer.
        peak-db: layers with rows of a few far larger weights are rounded by gptq whatever `rounding` says: those whose
            largest weights have squares so far above the mean square; 0: none.
    """

    name: ClassVar[str] = "quantize-weights"
    summary: ClassVar[str] = "round weights to their format; channel scales at 8 bits, integer group scales"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    format: str = "int8"
    granularity: str = "channel"
    group_size: int = 32
    rule: str = "absmax"
    scale_format: str = "float32"
    rounding: str = "nearest"
    sweeps: int = ROUNDS  # of codes and scales in turn after GPTQ
    rho: float = -1.0  # below 0: measured for each layer
    peak_db: float = 0.0  # none

    def __post_init__(self) -> None:
        option_checks.one_of("rule", self.rule, (*RULES, *LIMITED_RULES))
        option_checks.one_of("granularity", self.granularity, GRANULARITIES)
        option_checks.one_of("rounding", self.rounding, ROUNDINGS)
        option_checks.one_of("scale-format", self.scale_format, SCALE_FORMATS)
        option_checks.at_least("sweeps", self.sweeps, 0)
        option_checks.at_least("group-size", self.group_size, 2)
        fmt = format_of(self.format)
        if self.granularity == "group" and self.rule in LIMITED_RULES:
            raise ValueError(f"rule '{self.rule}' is for scales per tensor or channel")
        if self.granularity == "group" and not has_group_table(fmt):
            raise ValueError(
                f"{fmt.name} takes no integer group scales (they need an int8 image and at most 4 bits)"
            )

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Choose codes for every layer whose kernel is not `float`."""
        report = PassReport(self.name)
        todo = [
            n for n in graph.layers() if graph.plan.layers.get(n.name, LayerPlan()).kernel is not Kernel.FLOAT
        ]
        todo = [n for n in todo if graph.plan.layers[n.name].tensor is None]
        wanting = [n.name for n in todo if self._decided(graph, n).rounding in METRIC_ROUNDINGS]
        input_metrics(graph, ctx, wanting)
        path_inputs(graph, ctx, [n.name for n in todo if self._decided(graph, n).side_lowering == CONCAT_IN])
        for name in wanting:
            if reason := ctx.without_metric.get(name):
                report.skip(name, f"not rounded with regard to its outputs: {reason}")
        for node, layer in zip(todo, self._all_rounded(graph, todo, ctx), strict=True):
            graph.plan = graph.plan.with_layer(node.name, layer)
            if layer.tensor is None:
                continue
            w = layer.weight
            found = "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f} dB"
            name = short_name(w.format)
            report.change(node, f"{name}, {w.granularity}, {w.scale_rule}, {w.rounding}", after=found)
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name, LayerPlan())
            if layer.kernel is Kernel.FLOAT:
                report.skip(node, layer.reason)
        return report

    def _all_rounded(self, graph: LpGraph, todo: Sequence[Node], ctx: PassContext) -> list[LayerPlan]:
        """Plans of layers, those with codes of their own first."""
        firsts, made = self._firsts(graph, todo), dict[str, LayerPlan]()
        followers: dict[str, list[str]] = {}
        for name, first in firsts.items():
            followers.setdefault(first, []).append(name)

        def rounded(node: Node) -> LayerPlan:
            first = firsts.get(node.name)
            if first is not None:
                return self._like(graph, node, made[first], ctx)
            return self._held(graph, node, ctx, followers.get(node.name, ()))

        # Layers are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            for part in ([n for n in todo if n.name not in firsts], [n for n in todo if n.name in firsts]):
                for node, layer in zip(part, pool.map(rounded, part), strict=True):
                    made[node.name] = layer
                    ctx.progress("rounding weights", len(made), len(todo))
        return [made[n.name] for n in todo]

    def _firsts(self, graph: LpGraph, todo: Sequence[Node]) -> dict[str, str]:
        """By name of a layer that takes the codes of an earlier one of the same weights: that layer.

        What they share the file holds once. A few layers of few bits have codes of their own, as long as these
        together take no more than one copy in 8 bits.
        """
        groups: dict[Hashable, list[str]] = {}
        bits = {}
        for node in todo:
            decided, weight = self._decided(graph, node), node.inputs[1]
            if decided.rank or weight is None:
                continue
            key = (weight, node.op, decided, node.attrs.get("group", 1))
            groups.setdefault(key, []).append(node.name)
            bits[node.name] = format_of(decided.format).bits
        return {
            name: names[0]
            for names in groups.values()
            if len(names) * bits[names[0]] > SHARED_BITS
            for name in names[1:]
        }

    def _like(self, graph: LpGraph, node: Node, first: LayerPlan, ctx: PassContext) -> LayerPlan:
        """With the codes of the first layer of these weights, where it has some that serve."""
        if first.tensor is not None:
            metric = ctx.metrics.get(node.name)
            if shared := with_codes_of(graph, node, first, ctx.statistics, metric):
                return shared
        return self._held(graph, node, ctx)

    def _held(self, graph: LpGraph, node: Node, ctx: PassContext, followers: Sequence[str] = ()) -> LayerPlan:
        """As it was rounded when its format was tried, or rounded now; with regard to those that take its codes."""
        layer = graph.plan.layers[node.name]
        found = ctx.rounded.get((node.name, layer.weight))
        rounding = "" if found is None else found.weight.rounding
        swept = rounding in METRIC_ROUNDINGS or node.name in ctx.learned_tables
        unfinished = rounding == ADAROUND or (self.sweeps > 0 and swept)
        if found is None or unfinished or followers or found.kernel is not layer.kernel or self.rho >= 0:
            return self._rounded(graph, node, ctx, followers)
        return with_rounding(layer, found)

    def _rounded(self, graph: LpGraph, node: Node, ctx: PassContext, followers: Sequence[str]) -> LayerPlan:
        metric, decided = ctx.metrics.get(node.name), self._decided(graph, node)
        if metric is not None:
            metric = metric.beside([ctx.metrics[n] for n in followers if n in ctx.metrics])
        learned = node.name in ctx.learned_tables
        layer = rounded_layer(
            graph,
            node,
            decided,
            ctx.statistics,
            metric=metric,
            rounds=self.sweeps,
            rho=self.rho,
            improves_table=learned,
            sample=ctx.path_inputs.get(node.name),
        )
        if layer.weight == decided and self.rho < 0 and not learned and not followers:
            ctx.carried_out[node.name] = CarriedOut(decided, self.sweeps, metric, layer.codes_sha256)
        return layer

    def _decided(self, graph: LpGraph, node: Node) -> WeightPlan:
        planned = graph.plan.layers[node.name].weight
        if planned.format != "float32":
            return planned
        usual, weight = self.planned_weights(), node.inputs[1]
        if self.peak_db <= 0 or usual.rounding in METRIC_ROUNDINGS or weight is None:
            return usual
        peaked = peak_db(to_rows(node.op, weight.values)) > self.peak_db
        return replace(usual, rounding=PEAKED) if peaked else usual

    def planned_weights(self) -> WeightPlan:
        """How layers that bring no decision of their own are stored."""
        granularity = f"group{self.group_size}" if self.granularity == "group" else self.granularity
        name = planned_name(self.format)
        return WeightPlan(name, granularity, self.rule, self.scale_format, self.rounding)
