"""Decide which layers and elementwise nodes run on integers, and the static range of every tensor between them.

Ranges come from one streamed sweep over the deciding calibration samples. Members of a tie group (pools, moves,
clamps, and Concats where that costs little) share scale and zero point: the group's range holds that of each
member. Without samples nothing can be static: MatMul and Gemm measure their input's range at run time, other
layers keep float activations. [architecture 3.3, 4]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.accounts.sizes import settled
from lpcompile.analysis.activation_ranges import LEVELS, ActivationRanges
from lpcompile.analysis.calibration import collect_statistics
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import moment_axes
from lpcompile.analysis.layer_kernels import KernelChoice, choose_kernels
from lpcompile.analysis.partition import float_layers
from lpcompile.analysis.ranges import RULES
from lpcompile.analysis.regions import Regions, find_regions
from lpcompile.analysis.ties import tie_groups
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.harmful_ranges import harmful_ranges
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import STATIC, ActivationOptions, ActivationPlan, Kernel, LayerPlan, QuantPlan
from lpcompile.records import PassReport
from lpcompile.replayed_plan import fitted
from lpcompile.tuning.activation_scales import LEARNED


@dataclass(frozen=True, slots=True)
class QuantizeActivations(Pass):
    """Static ranges for activations; the options are those of the recipe.

    Attributes:
        format: of inputs of layers, uint8 or uint4; what no layer reads keeps 8 bits.
        ends: of the inputs of the first and the last layer.
        rule: how a range is found: minmax, percentile, mse, kl, middle; auto: mse at 4 bits, at 8 minmax where a MatMul
            reads, else middle.
        percentile: of the rule of that name.
        matmul: ranges of inputs of matrix products: static, dynamic (measured at run time), or auto.
        cost: time: what the target's table says is faster as floats stays float; none: integers wherever possible.
    """

    name: ClassVar[str] = "quantize-activations"
    summary: ClassVar[str] = (
        "decide what runs on integers; static ranges from streamed statistics; tie groups"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    format: str = "uint8"
    ends: str = "uint8"
    rule: str = "auto"
    percentile: float = 99.99
    matmul: str = "auto"
    cost: str = "time"

    def __post_init__(self) -> None:
        option_checks.one_of("format", self.format, LEVELS)
        option_checks.one_of("ends", self.ends, LEVELS)
        option_checks.one_of("rule", self.rule, ("auto", *RULES))
        option_checks.one_of("matmul", self.matmul, ("auto", "static", "dynamic"))
        option_checks.one_of("cost", self.cost, ("time", "none"))
        if not 50 < self.percentile <= 100:
            raise ValueError(f"option 'percentile' lies between 50 and 100, not {self.percentile}")

    def planned_activations(self) -> ActivationOptions:
        """What the options say."""
        return ActivationOptions(self.format, self.matmul, self.cost == "time")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan kernels, elementwise nodes and activations; decisions that a replay brought along stay."""
        if ctx.decisions is not None:
            return self._replay(graph, ctx, PassReport(self.name))
        return self.decided(graph, ctx, {})

    def decided(self, graph: LpGraph, ctx: PassContext, floats: Mapping[str, str]) -> PassReport:
        """Plan all of it by the samples; the nodes in `floats` keep floats, for that reason."""
        assert ctx.target is not None, "plan passes run with a target"
        report = PassReport(self.name)
        self._plan(graph, ctx, report, floats)
        if LEVELS[self.format] == LEVELS["uint8"]:
            found = harmful_ranges(graph, ctx)
            if found.nodes:
                report = PassReport(self.name)
                self._plan(graph, ctx, report, {**floats, **found.nodes})
                report.metrics |= {
                    "sqnr_db_all_in_codes": found.before,
                    "sqnr_db_without_harmful": found.after,
                }
                ctx.warnings.append(
                    f"float activations at {', '.join(list(found.nodes)[:3])}{' ...' if len(found.nodes) > 3 else ''}: "
                    f"with 8 bits everywhere {found.before:.1f} dB of the outputs were left, now {found.after:.1f}"
                )
        return report

    def _plan(self, graph: LpGraph, ctx: PassContext, report: PassReport, floats: Mapping[str, str]) -> None:
        """Plan all of it; the nodes in `floats` keep floats, for that reason."""
        assert ctx.target is not None
        kernels = choose_kernels(
            graph,
            ctx.target,
            calibrated=ctx.calibration is not None,
            matmul=self._matmul,
            timed=self.cost == "time",
            weights=ctx.weights,
        )
        for name in ctx.keep_float & kernels.keys():
            kernels[name] = KernelChoice(Kernel.FLOAT, "kept float on request")
        stored = Kernel.WEIGHT_ONLY if ctx.target.rules.expands_weights else Kernel.FLOAT
        for name in floats.keys() & kernels.keys():
            kernels[name] = KernelChoice(stored, floats[name])
        kept = ctx.keep_float | floats.keys()
        static = [n for n in graph.layers() if kernels[n.name].kernel in STATIC]
        regions = find_regions(graph, ctx.target, static, kept) if static else Regions()
        costs = ctx.target.cost_model if self.cost == "time" else None
        if costs is not None and static:
            sized = self._sized(graph, ctx)
            slower = float_layers(sized, regions, [sized.node(n.name) for n in static], costs)
            for name, reason in slower.items():
                kernels[name] = KernelChoice(Kernel.WEIGHT_ONLY, reason)
            if slower:
                static = [n for n in static if kernels[n.name].kernel in STATIC]
                regions = find_regions(graph, ctx.target, static, kept) if static else Regions()
        layers = {}
        for name, choice in kernels.items():
            kernel = choice.kernel
            if kernel in STATIC:
                kernel = Kernel.INTEGER if name in regions.integer_out else Kernel.FLOAT_OUT
            layers[name] = LayerPlan(kernel, reason=choice.reason)
            (report.skip if kernel is Kernel.FLOAT else report.change)(
                name, choice.reason or f"kernel {kernel.value}"
            )
            if choice.unpacked:
                report.skip(name, choice.unpacked)
        for name, reason in regions.skipped.items():
            report.skip(name, floats.get(name, reason))
        graph.plan = QuantPlan(
            MappingProxyType(layers),
            elementwise=MappingProxyType(dict(regions.elementwise)),
            tables=graph.plan.tables,
            recurrent=graph.plan.recurrent,
            reduce_range=graph.plan.reduce_range,
        )
        statistics = self._statistics(graph, ctx, regions.tensors)
        if statistics:
            activations = self._activations(graph, ctx, regions, [n.name for n in static], report)
            graph.plan = replace(graph.plan, activations=MappingProxyType(activations))
            if LEVELS[self.format] < LEVELS["uint8"]:
                self._warn_of_width(activations, ctx)
        report.metrics["integer_elementwise_nodes"] = len(regions.elementwise)
        report.metrics["quantized_tensors"] = len(graph.plan.activations)

    def _sized(self, graph: LpGraph, ctx: PassContext) -> LpGraph:
        """The graph with the sizes of the first sample, so that times are known where the model leaves sizes open."""
        calls = () if ctx.calibration is None else ctx.calibration.deciding
        if not calls or any(
            n.subgraphs for n in graph.nodes()
        ):  # a branch that is not taken may not fit them
            return graph
        return settled(graph, {name: x.shape for name, x in calls[0].items()})

    @property
    def _matmul(self) -> str:
        """Ranges at run time are of 8 bits in the runtime, so fewer bits need static ones."""
        narrow = LEVELS[self.format] < LEVELS["uint8"]
        return "static" if narrow and self.matmul == "auto" else self.matmul

    def _replay(self, graph: LpGraph, ctx: PassContext, report: PassReport) -> PassReport:
        """Carry out the decisions that were given; the sweep only serves passes that need means of activations."""
        assert ctx.decisions is not None
        made, warnings = fitted(ctx.decisions, graph)
        graph.plan = replace(made, tables=graph.plan.tables, recurrent=graph.plan.recurrent)
        for name, activation in graph.plan.activations.items():
            if activation.start:  # learned by a later pass, which learns it anew
                rule = activation.rule.removesuffix(LEARNED).removesuffix(", ")
                before = replace(activation, scale=activation.start, rule=rule, start=0.0)
                graph.plan = graph.plan.with_activation(name, before)
        ctx.warnings.extend(warnings)
        self._statistics(graph, ctx, list(graph.plan.activations))
        for name, layer in graph.plan.layers.items():
            report.change(name, f"kernel {layer.kernel.value}, as decided in the file")
        return report

    def _statistics(
        self, graph: LpGraph, ctx: PassContext, planned: list[str]
    ) -> Mapping[str, TensorStatistics]:
        if ctx.calibration is None or ctx.observe is None:
            return {}
        axes = moment_axes(
            [n for n in graph.layers() if graph.plan.layers[n.name].kernel is not Kernel.FLOAT]
        )
        tensors = list(dict.fromkeys([*planned, *axes]))
        if tensors:
            ctx.statistics = collect_statistics(
                ctx.observe(graph, tensors),
                ctx.calibration.deciding,
                tensors,
                axes,
                lambda done, total: ctx.progress("calibrating", done, total),
            )
        return ctx.statistics

    def _activations(
        self, graph: LpGraph, ctx: PassContext, regions: Regions, static: list[str], report: PassReport
    ) -> dict[str, ActivationPlan]:
        groups, read = regions.groups, self._read_by_layers(graph, static)
        narrow = frozenset(t for t, end in read.items() if not end)
        ctx.ranges = ranges = ActivationRanges(ctx.statistics, groups, self.rule, self.percentile, narrow)
        formats = dict.fromkeys(regions.tensors, "uint8")
        formats |= {t: self.ends if end else self.format for t, end in read.items()}
        levels = [min(LEVELS[formats[t]] for t in g.members) for g in groups]
        alone = []
        for g, n in zip(groups, levels, strict=True):
            alone.append(ranges.range_of(g.members, ranges.rule_of(graph, g.members, n), n))
            ctx.progress("finding ranges", len(alone), len(groups))
        found: dict[str, ActivationPlan] = {}
        for together in tie_groups(groups, regions.joins, alone, levels):
            fewest = min(levels[i] for i in together)
            plan = ranges.planned(graph, together, f"uint{fewest.bit_length() - 1}")
            for t in (t for i in together for t in groups[i].members):
                found[t] = plan
                report.change(
                    t,
                    f"{plan.format}, {plan.rule}",
                    after=f"scale {plan.scale:.6g}, zero point {plan.zero_point}",
                )
        return {t: found[t] for t in regions.tensors}

    def _warn_of_width(self, activations: Mapping[str, ActivationPlan], ctx: PassContext) -> None:
        if all(a.format != self.format for a in activations.values()):
            ctx.warnings.append(
                f"no activation is {self.format}: every layer is the first, the last, faster with ranges measured "
                "at run time, or faster as floats"
            )

    def _read_by_layers(self, graph: LpGraph, static: list[str]) -> dict[str, bool]:
        """Inputs of layers, which take `format`; whether one is an end (first or last layer), which takes `ends`.

        What no layer reads keeps 8 bits.
        """
        found: dict[str, bool] = {}
        for i, name in enumerate(static):
            x = graph.node(name).inputs[0]
            assert x is not None
            if np.dtype(np.float32) == (x.dtype or np.float32):
                found[x.name] = found.get(x.name, False) or i in (0, len(static) - 1) or x.is_input
        return found
