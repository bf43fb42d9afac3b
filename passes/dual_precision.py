"""Dual Precision Quantization: weights stored in INT4, read as FP8, multiplied with inputs in FP8.

The float network is planned anew: every layer gets the kernel `float8`, its input a power of two as the scale of its
FP8 numbers (largest magnitude of the samples), its weights INT4 codes and bfloat16 group scales by DPQ's loop. Rounding
sees the moments of inputs that are FP8 numbers already. [gafni2025, notes 2, 3 and 7]
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby
from types import MappingProxyType
from typing import ClassVar

from lpcompile import option_checks
from lpcompile.analysis.calibration import collect_statistics
from lpcompile.analysis.layer_kernels import choose_kernels
from lpcompile.analysis.macs import layer_shape
from lpcompile.errors import DecisionsError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.float8_inputs import output_sqnr_db
from lpcompile.passes.float8_moments import Float8Moments, gather_moments
from lpcompile.passes.float8_rounded_layer import float8_rounded_layer, group_size
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import (
    DUAL_SCALES,
    FLOAT8_FORMAT,
    ActivationPlan,
    Kernel,
    LayerPlan,
    QuantPlan,
    WeightPlan,
)
from lpcompile.quant.dual_precision import FULL_SCALES, power_of_two_above
from lpcompile.quant.dual_rounding import ORDERS, RULES, DualRounding, dual_factors
from lpcompile.quant.gram_factor import DAMPING
from lpcompile.records import PassReport
from lpcompile.replayed_plan import fitted

THREADS = 2
LEAST_SCALE = 2.0**-60  # of activations: what float32 rounds exactly
REASON = "int4 codes that are read as FP8"
FEW = "weights in FP8: its outputs read too few inputs for 4 bits"
RANGE_RULE = "absmax, power of two"
WIDE_RULE = "dpq"  # of FP8 weights: the loop, without a second stage
EIGHTHS = {int(v): k for k, v in FULL_SCALES.items()}


@dataclass(frozen=True, slots=True)
class DualPrecision(Pass):
    """Plan and round a network for FP8 arithmetic on INT4 weights.

    Attributes:
        group-size: inputs that share a scale.
        rule: how codes are chosen: nearest, gptq-cast, dpq (as published), or levels (the nearest of the FP8 levels
            that codes expand to, group scales searched before).
        order: of the inputs while codes are chosen: natural, or gar (groups by what they weigh).
        full-scale: largest magnitude of FP8 weights: 240 or 448.
        activations: float8_e4m3fn, or float32: inputs are not rounded.
        least-input-db: an input that FP8 would leave with less SQNR stays float.
        least-inputs: of an output; layers with fewer keep weights of 8 bits in FP8.
        moments: of inputs that rounding sees: of FP8 numbers (float8_e4m3fn) or of floats (float32).
        damping: added to the diagonals of the Gram matrices, relative to their mean.
    """

    name: ClassVar[str] = "dual-precision"
    summary: ClassVar[str] = "int4 weights that are read as FP8, FP8 activations (DPQ)"
    exact: ClassVar[bool] = False
    many_temporaries: ClassVar[bool] = True
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED, Fact.WEIGHTS_QUANTIZED})

    group_size: int = 64
    rule: str = "levels"
    order: str = "gar"
    full_scale: int = 240
    activations: str = FLOAT8_FORMAT
    least_input_db: float = 24.0  # E4M3 itself gives 31.5 dB where products do not cancel
    least_inputs: int = 16
    moments: str = FLOAT8_FORMAT
    damping: float = DAMPING

    def __post_init__(self) -> None:
        option_checks.at_least("group-size", self.group_size, 2)
        option_checks.one_of("rule", self.rule, RULES)
        option_checks.one_of("order", self.order, ORDERS)
        option_checks.one_of("activations", self.activations, (FLOAT8_FORMAT, "float32"))
        option_checks.one_of("moments", self.moments, (FLOAT8_FORMAT, "float32"))
        option_checks.at_least("least-inputs", self.least_inputs, 0)
        option_checks.not_negative("damping", self.damping)
        option_checks.not_negative("least-input-db", self.least_input_db)
        if self.full_scale not in EIGHTHS:
            raise ValueError(f"option 'full-scale' is one of {', '.join(map(str, EIGHTHS))}")

    @property
    def how(self) -> DualRounding:
        """Rule and order of layers that bring no decision of their own."""
        return DualRounding(self.rule, "natural" if self.rule == "nearest" else self.order, self.damping)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan kernels and activations, gather moments, choose codes."""
        report = PassReport(self.name)
        if ctx.decisions is None:
            self._plan(graph, ctx, report)
        else:
            self._replay(graph, ctx)
        todo = [n for n in graph.layers() if graph.plan.layers[n.name].weight.scale_format == DUAL_SCALES]
        wanting = [n for n in todo if graph.plan.layers[n.name].weight.rounding != "fp8-nearest"]
        moments = gather_moments(graph, ctx, wanting, rounded=self.moments == FLOAT8_FORMAT)
        for name, why in moments.left_out.items():
            assumed = graph.node(name).op == "Conv"
            by = (
                "rounded by assumed moments of its inputs"
                if assumed
                else "not rounded with regard to its outputs"
            )
            report.skip(name, f"{by}: {why}")
        # Layers are independent and numpy releases the interpreter lock: two at a time.
        runs = [list(r) for _, r in groupby(todo, lambda n: self._factored(graph, n, moments))]
        with ThreadPoolExecutor(THREADS) as pool:
            rounded = chain.from_iterable(pool.map(lambda r: self._rounded(graph, r, moments), runs))
            for done, (node, layer) in enumerate(zip(todo, rounded, strict=True)):
                ctx.progress("rounding weights", done + 1, len(todo))
                graph.plan = graph.plan.with_layer(node.name, layer)
                w = layer.weight
                found = "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f} dB"
                report.change(node, f"{w.format}, {w.granularity}, {w.scale_rule}, {w.rounding}", after=found)
        for node in graph.layers():
            layer = graph.plan.layers[node.name]
            if layer.kernel is Kernel.FLOAT:
                report.skip(node, layer.reason)
        return report

    def _factored(self, graph: LpGraph, node: Node, moments: Float8Moments) -> tuple[int, str, str]:
        """What layers have alike that can share a factor."""
        weight = graph.plan.layers[node.name].weight
        return id(moments.get(node.name)), weight.rounding, weight.granularity

    def _rounded(self, graph: LpGraph, nodes: Sequence[Node], moments: Float8Moments) -> list[LayerPlan]:
        """Layers that share a factor; without moments there is none."""
        first = graph.plan.layers[nodes[0].name]
        how, metric = DualRounding.of(first.weight.rounding, self.damping), moments.get(nodes[0].name)
        factors = None if metric is None else dual_factors(metric.matrix, how, group_size(first))
        return [
            float8_rounded_layer(n, graph.plan.layers[n.name], metric, how, EIGHTHS[self.full_scale], factors)
            for n in nodes
        ]

    def _plan(self, graph: LpGraph, ctx: PassContext, report: PassReport) -> None:
        assert ctx.target is not None, "plan passes run with a target"
        if graph.plan.layers:
            ctx.warnings.append(
                f"{self.name} plans the network anew: what passes before it planned is dropped"
            )
        choices = choose_kernels(graph, ctx.target, calibrated=True, matmul="static", timed=False)
        floats = ctx.calibration is None or ctx.calibration.generated or self.activations != FLOAT8_FORMAT
        narrow = WeightPlan(
            "int4", f"group{self.group_size}", self.how.scale_rule, DUAL_SCALES, self.how.name
        )
        wide = self._wide_weights()
        layers: dict[str, LayerPlan] = {}
        for name, choice in choices.items():
            few = choice.kernel is not Kernel.FLOAT
            few = few and layer_shape(graph.node(name)).inputs < self.least_inputs
            weight, why = (wide, FEW) if few else (narrow, REASON)
            if name in ctx.keep_float:
                layers[name] = LayerPlan(reason="kept float on request")
            elif choice.kernel is Kernel.FLOAT:
                layers[name] = LayerPlan(reason=choice.reason)
            elif floats:
                layers[name] = LayerPlan(Kernel.WEIGHT_ONLY, weight, reason=f"{why}; activations stay float")
            else:
                layers[name] = LayerPlan(Kernel.FLOAT8, weight, reason=why)
        graph.plan = QuantPlan(MappingProxyType(layers), reduce_range=graph.plan.reduce_range)
        activations = self._activations(graph, ctx)
        self._spare_inputs(graph, ctx, activations)
        read = {x.name for n in self._on_float8(graph) if (x := n.inputs[0]) is not None}
        kept = {name: plan for name, plan in activations.items() if name in read}
        for tensor, plan in kept.items():
            report.change(tensor, plan.format, after=f"scale {plan.scale:g}")
        graph.plan = replace(graph.plan, activations=MappingProxyType(kept))

    def _wide_weights(self) -> WeightPlan:
        """Of layers whose outputs read few inputs."""
        by = DualRounding("nearest" if self.rule == "nearest" else WIDE_RULE)
        return WeightPlan(FLOAT8_FORMAT, "channel", by.scale_rule, DUAL_SCALES, by.name)

    def _on_float8(self, graph: LpGraph) -> list[Node]:
        return [n for n in graph.layers() if graph.plan.layers[n.name].kernel is Kernel.FLOAT8]

    def _spare_inputs(
        self, graph: LpGraph, ctx: PassContext, activations: Mapping[str, ActivationPlan]
    ) -> None:
        """Layers whose outputs FP8 inputs would spoil keep float ones."""
        if not activations or ctx.observe is None or ctx.calibration is None:
            return
        found = output_sqnr_db(
            graph, self._on_float8(graph), activations, ctx.observe, ctx.calibration.deciding, seed=ctx.seed
        )
        for name, left in found.items():
            if left is not None and left < self.least_input_db:
                why = graph.plan.layers[name].reason
                reason = f"{why}; inputs stay float: in FP8 they would leave {left:.1f} dB of its output"
                layer = replace(graph.plan.layers[name], kernel=Kernel.WEIGHT_ONLY, reason=reason)
                graph.plan = graph.plan.with_layer(name, layer)

    def _activations(self, graph: LpGraph, ctx: PassContext) -> Mapping[str, ActivationPlan]:
        """Powers of two that bring the largest magnitude of the samples to the full scale."""
        read = [n.inputs[0] for n in self._on_float8(graph)]
        tensors = list(dict.fromkeys(x.name for x in read if x is not None))
        if not tensors or ctx.observe is None or ctx.calibration is None:
            return {}
        ctx.statistics = collect_statistics(
            ctx.observe(graph, tensors),
            ctx.calibration.deciding,
            tensors,
            progress=lambda done, total: ctx.progress("calibrating", done, total),
        )
        found = {}
        for name in tensors:
            largest = max(-ctx.statistics[name].low, ctx.statistics[name].high)
            scale = power_of_two_above(largest / self.full_scale, LEAST_SCALE) if largest > 0 else 1.0
            found[name] = ActivationPlan(FLOAT8_FORMAT, scale, 0, name, RANGE_RULE)
        return found

    def _replay(self, graph: LpGraph, ctx: PassContext) -> None:
        assert ctx.decisions is not None
        graph.plan, warnings = fitted(ctx.decisions, graph)
        ctx.warnings.extend(warnings)
        for name, layer in graph.plan.layers.items():
            known = (Kernel.FLOAT, Kernel.FLOAT8, Kernel.WEIGHT_ONLY)
            if ctx.weights is None and (layer.float8_input or layer.kernel not in known):
                raise DecisionsError(
                    f"layer '{name}': kernel '{layer.kernel}' of int4 codes in groups that are read as FP8 is for "
                    "pass 'run-on-integers', which the pipeline lacks",
                    hint='set kernel = "float8" or "weight-only", or add the pass to the pipeline',
                )
            if layer.kernel is Kernel.FLOAT or layer.weight.scale_format == DUAL_SCALES:
                continue
            if layer.weight != ctx.weights:
                raise DecisionsError(
                    f"layer '{name}': pass '{self.name}' rounds no {layer.weight.format} with scales in "
                    f"{layer.weight.scale_format}",
                    hint=f'set scale_format = "{DUAL_SCALES}", or kernel = "float"',
                )
            wide = replace(layer, weight=self._wide_weights())  # a later pass has rounded it to integers
            graph.plan = graph.plan.with_layer(name, wide)
        graph.plan = _in_float8(graph)


def _in_float8(graph: LpGraph) -> QuantPlan:
    """The plan with FP8 where a later pass took it out."""
    layers, activations = dict(graph.plan.layers), dict(graph.plan.activations)
    for name, layer in layers.items():
        x = graph.node(name).inputs[0]
        if layer.float8_input and x is not None:
            layers[name] = replace(layer, kernel=Kernel.FLOAT8)
            activations[x.name] = ActivationPlan(FLOAT8_FORMAT, layer.float8_input, 0, x.name, RANGE_RULE)
        elif layer.kernel not in (Kernel.FLOAT, Kernel.FLOAT8):
            layers[name] = replace(layer, kernel=Kernel.WEIGHT_ONLY)
    kept = {k: v for k, v in activations.items() if v.format == FLOAT8_FORMAT}
    return replace(
        graph.plan,
        layers=MappingProxyType(layers),
        activations=MappingProxyType(kept),
        elementwise=MappingProxyType({}),
    )
