"""Repair the rounding errors of few-bit layers by low-rank side paths: W^ + B A, factors in 8 bits.

On `ort` the path is merged into the int8 image of the weights when the model is loaded: the file holds codes and
factors, and the layer costs what an 8-bit one does. [jayasuriya2024; quant.low_rank, quant.side_path]
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from lpcompile import option_checks
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.input_metrics import input_metrics
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.path_inputs import NO_SAMPLES, path_inputs
from lpcompile.passes.rounded_layer import rounded_layer
from lpcompile.passes.side_paths import BY_METRIC, WITHOUT_METRIC, lowering_of, side_path_obstacle
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import CONCAT_IN, SEPARATE, SIDE_LOWERINGS, Kernel, LayerPlan
from lpcompile.quant.low_rank import METHODS
from lpcompile.quant.side_path import MOST_RANK
from lpcompile.records import PassReport

THREADS = 2


@dataclass(frozen=True, slots=True)
class InsertLora(Pass):
    """A side path of one rank for every layer that may have one.

    Attributes:
        rank: of the paths.
        method: how factors are found: lowrank-first, qera, lqer, svd, loftq.
        factors: format of the factors.
        most-macs: share of the layer's own products that a path may take; one with more is skipped.
        sweeps: of codes and scales in turn after GPTQ.
        lowering: merged, separate or concat-in; empty: the target's own.
        keep: better: undone where the network lost; always: a later pass trains the factors.
    """

    name: ClassVar[str] = "insert-lora"
    summary: ClassVar[str] = "repair few-bit weights by low-rank side paths with 8-bit factors"
    exact: ClassVar[bool] = False
    many_temporaries: ClassVar[bool] = True
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    rank: int = 8
    method: str = "lowrank-first"
    factors: str = "int8"
    most_macs: float = 0.5
    sweeps: int = 0
    lowering: str = ""
    keep: str = "better"

    def __post_init__(self) -> None:
        option_checks.one_of("method", self.method, METHODS)
        option_checks.one_of("factors", self.factors, ("int8",))
        option_checks.one_of("lowering", self.lowering, ("", *SIDE_LOWERINGS))
        option_checks.one_of("keep", self.keep, ("better", "always"))
        option_checks.at_least("rank", self.rank, 1)
        if self.rank > MOST_RANK:
            raise ValueError(f"option 'rank' is at most {MOST_RANK}")
        option_checks.at_least("sweeps", self.sweeps, 0)
        option_checks.positive("most-macs", self.most_macs)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Give side paths to the layers of the plan."""
        lowering = lowering_of(ctx.target, self.lowering)
        report, before = PassReport(self.name), graph.plan
        todo: list[Node] = []
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name, LayerPlan())
            rank, most = layer.weight.rank or self.rank, inf if layer.weight.rank else self.most_macs
            obstacle = "it was not rounded" if layer.tensor is None else ""
            how = self._lowering(graph, node, ctx)
            obstacle = obstacle or side_path_obstacle(
                node, layer.kernel, layer.weight, rank=rank, most=most, lowering=how
            )
            if how == CONCAT_IN and (ctx.calibration is None or ctx.calibration.generated):
                obstacle = obstacle or NO_SAMPLES
            if how == SEPARATE and layer.kernel is Kernel.INTEGER and not _adds_to_sums(ctx):
                obstacle = obstacle or "it gives 8-bit codes, whose sums a separate path cannot add to"
            if ctx.decisions is not None and not layer.weight.rank:
                obstacle = obstacle or "as decided"
            if obstacle:
                report.skip(node, obstacle)
            else:
                todo.append(node)
        if self.method in BY_METRIC:
            input_metrics(graph, ctx, [n.name for n in todo])
        path_inputs(graph, ctx, [n.name for n in todo if self._lowering(graph, n, ctx) == CONCAT_IN])
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda n: self._layer(graph, n, ctx, lowering), todo)
            for done, (node, layer) in enumerate(zip(todo, found, strict=True)):
                ctx.progress("fitting side paths", done + 1, len(todo))
                self._put(graph, ctx, node, layer, report)
        if todo and ctx.decisions is None and self.keep == "better":
            keep_if_better(graph, ctx, before, report, stays="no side path is kept")
        return report

    def _lowering(self, graph: LpGraph, node: Node, ctx: PassContext) -> str:
        """Of the path of a layer: as it was decided before, else as this pass decides."""
        decided = graph.plan.layers.get(node.name, LayerPlan()).weight.side_lowering
        return lowering_of(ctx.target, decided or self.lowering)

    def _layer(self, graph: LpGraph, node: Node, ctx: PassContext, lowering: str) -> LayerPlan:
        decided = graph.plan.layers[node.name].weight
        replayed = None if ctx.decisions is None else ctx.decisions.layers.get(node.name)
        if decided.rank and replayed is not None:  # rounding without a metric may have changed the method
            decided = replace(decided, side_path=replayed.weight.side_path)
        if not decided.rank:  # others were decided before
            decided = replace(decided, rank=self.rank, side_path=self.method, side_lowering=lowering)
        metric, held = ctx.metrics.get(node.name), graph.plan.layers[node.name]
        known = self._carried_out(node, held, ctx)
        if known and held.weight == decided:
            return held  # a replay's, with its path
        alone = held.tensor if known and held.weight == decided.alone else None
        return rounded_layer(
            graph,
            node,
            decided,
            ctx.statistics,
            metric=metric,
            rounds=self.sweeps,
            alone=alone,
            sample=ctx.path_inputs.get(node.name),
        )

    def _carried_out(self, node: Node, held: LayerPlan, ctx: PassContext) -> bool:
        """Whether the layer's codes still are those that rounding it here would give."""
        made, metric = ctx.carried_out.get(node.name), ctx.metrics.get(node.name)
        return (
            made is not None
            and (made.plan, made.sweeps, made.codes_sha256) == (held.weight, self.sweeps, held.codes_sha256)
            and made.metric is metric
        )

    def _put(
        self, graph: LpGraph, ctx: PassContext, node: Node, layer: LayerPlan, report: PassReport
    ) -> None:
        if layer.tensor is None or layer.tensor.side is None:
            report.skip(node, "a side path brings it no nearer to its weights")
            return
        held = graph.plan.layers[node.name]
        graph.plan = graph.plan.with_layer(node.name, layer)
        what = f"rank {layer.tensor.side.rank}, {layer.weight.side_path}"
        if layer.weight.side_path == WITHOUT_METRIC != self.method:
            what += (
                f" instead of {self.method}: {ctx.without_metric.get(node.name, 'its inputs are not known')}"
            )
        report.change(node, what, _db(held), _db(layer))


def _adds_to_sums(ctx: PassContext) -> bool:
    """Whether a separate path adds to the sums of layers before they are requantised."""
    return ctx.target is None or ctx.target.rules.dyadic


def _db(layer: LayerPlan) -> str:
    found = layer.weight_sqnr_db if layer.local_sqnr_db is None else layer.local_sqnr_db
    return "" if found is None else f"{found:.1f} dB"
