"""Learn the rounding of a few layers together, from what they shall put out: block reconstruction.

Block after block, in execution order: what comes in is that of the network rounded so far (mixed with the float model's
for half of the numbers), what shall come out is the float model's. Rounding up or down, biases and the ranges of narrow
activations are learned by gradient descent; a block whose error on held-out samples did not fall stays as it was.
[brecq, qdrop]
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.rounding_loss import column_energy, ratio_db
from lpcompile.errors import GradientError, PassError
from lpcompile.formats.arrays import F32
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.materialise.functions import units
from lpcompile.materialise.layers import planned_bias
from lpcompile.materialise.qdq import integer_reads, rounded_floats
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.rounded_layer import least_scale
from lpcompile.passes.tune_weights import bias_now, fixed_codes, output_spread, own_bias
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import LayerPlan
from lpcompile.quant.rows import from_rows, to_rows
from lpcompile.reconstruction.block_graph import BlockGraph, Reads, block_graph
from lpcompile.reconstruction.block_samples import Batching, gather, keep_shapes, spaced
from lpcompile.reconstruction.blocks import Block, find_blocks
from lpcompile.reconstruction.descent import Descent
from lpcompile.reconstruction.soft_rounding import SoftLayer
from lpcompile.records import PassReport
from lpcompile.tuning.estimators import Estimator
from lpcompile.tuning.parameters import TunedLayer
from lpcompile.tuning.training import split_held

METHODS = ("adaround", "ste")
RANGES = ("narrow", "all", "fixed")
RECONSTRUCTED = "reconstructed"
GATHERED = 8  # samples a call while inputs and outputs are gathered
_KEEP_BYTES = 1  # a number that says whether one rounding is kept


@dataclass(frozen=True, slots=True)
class ReconstructBlocks(Pass):
    """Block reconstruction.

    Attributes:
        iterations: steps a block.
        batch: samples a step.
        method: adaround (each weight between its two neighbouring levels) or ste (latent weights, straight through).
        learning-rate: in steps of each weight's quantiser.
        pull: of adaround, to whole levels, in units of the loss before.
        drop: share of numbers that are not rounded in a step.
        ranges: activations whose range is learned: narrow (below 8 bits), all, or fixed (none).
        samples-mb: memory for the samples of a block; fewer samples where they take more.
    """

    name: ClassVar[str] = "reconstruct-blocks"
    summary: ClassVar[str] = "learn rounding, biases and narrow ranges block by block, from the float model's tensors"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    iterations: int = 300
    batch: int = 32
    method: str = "adaround"
    learning_rate: float = 0.01
    pull: float = 1.0
    drop: float = 0.5
    ranges: str = "narrow"
    samples_mb: int = 512

    def __post_init__(self) -> None:
        for key, value, known in (("method", self.method, METHODS), ("ranges", self.ranges, RANGES)):
            if value not in known:
                raise ValueError(f"option '{key}' is one of {', '.join(known)}, not '{value}'")
        for key, number in (
            ("iterations", self.iterations),
            ("batch", self.batch),
            ("samples-mb", self.samples_mb),
        ):
            if number < 1:
                raise ValueError(f"option '{key}' is at least 1, not {number}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"option 'drop' is a share below 1, not {self.drop}")
        for key, amount in (("learning-rate", self.learning_rate), ("pull", self.pull)):
            if not 0 < amount < float("inf"):
                raise ValueError(f"option '{key}' is positive, {amount} is given")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Reconstruct every block that has rounded layers; codes, biases and ranges go into the plan."""
        report = PassReport(self.name)
        if ctx.calibration is None or ctx.calibration.generated or ctx.observe is None:
            ctx.warnings.append("blocks are not reconstructed: there is no calibration data")
            for node in graph.layers():
                report.skip(node, "no calibration data to learn from")
            return report
        blocks = find_blocks(graph)
        tensors = list(dict.fromkeys(t for b in blocks for t in (*b.inputs, *b.side, *b.outputs)))
        batching = Batching.of(graph, tensors, ctx.observe, ctx.calibration.deciding)
        for i, block in enumerate(blocks):
            ctx.progress("reconstructing blocks", i, len(blocks))
            self._reconstruct(graph, ctx, block, batching, report, i)
        ctx.progress("reconstructing blocks", len(blocks), len(blocks))
        return report

    def _reconstruct(
        self, graph: LpGraph, ctx: PassContext, block: Block, batching: Batching, report: PassReport, index: int
    ) -> None:
        start = time.perf_counter()
        assert ctx.observe is not None
        assert ctx.calibration is not None
        layers = self._layers(graph, ctx, block, report)
        if not layers:
            return
        reads = [
            (v.name, frozenset(n.name for n in readers)) for v, readers in integer_reads(graph, units(graph))
        ]
        inside = set(block.nodes)
        own = [
            (t, r)
            for t, r in reads
            if {n.name for n in graph.value(t).consumers} & (r or inside) & inside
        ]
        calls = ctx.calibration.deciding
        keeps = keep_shapes(graph, [t for t, _ in own], batching, ctx.observe, calls)
        try:
            made = block_graph(
                graph,
                block,
                layers,
                graph.plan.activations,
                own,
                learned=self._learned(graph, reads, inside),
                free_batch=batching.batched is not None,
                drops=self.drop > 0 and all(t in keeps for t, _ in own),
                held=self._held(graph, block, layers),
            )
        except GradientError as error:
            for layer in layers:
                report.skip(layer.name, f"its block cannot be learned: {error}")
            return
        size = min(GATHERED, self.batch)
        gathered = self._within(batching.calls(calls, size), calls)
        data = gather(
            made,
            block,
            batching,
            gathered,
            ctx.observe(graph, [*block.inputs, *block.side, *block.outputs]),
            ctx.observe(rounded_floats(graph), block.inputs),
        )
        at, held = split_held(data.samples.count)
        descent = Descent(
            made,
            ctx.observe(made.student.trained, made.tensors),
            ctx.observe(made.student.judged, [made.student.loss]),
            data,
            keeps,
            at,
            held,
            self.iterations,
            self.batch,
            self.learning_rate,
            self.drop,
            ctx.seed + index,
        )
        best = descent.run()
        power = sum(data.signal.values())
        before, after = (ratio_db(power, x) or 0.0 for x in (descent.losses[0], min(descent.losses)))
        seconds = time.perf_counter() - start
        prefix = f"block_{index:03d}"
        report.metrics |= {
            f"{prefix}_before_db": before,
            f"{prefix}_after_db": after,
            f"{prefix}_samples": data.samples.count,
            f"{prefix}_seconds": seconds,
        }
        if best is None:
            for layer in layers:
                report.skip(layer.name, "its block came no nearer to the float model on held-out samples")
            return
        for layer in layers:
            self._write(graph, layer, best)
        for scale in made.scales:
            planned = scale.planned(best)
            for tensor, plan in graph.plan.activations.items():
                if plan.tie_group == scale.plan.tie_group:
                    graph.plan = graph.plan.with_activation(tensor, replace(plan, scale=planned.scale))
        report.change(block.name, "reconstructed", f"{before:.1f} dB", f"{after:.1f} dB")

    def _within(self, gathered: list[Feeds], calls: Sequence[Feeds]) -> list[Feeds]:
        return gathered

    def _layers(
        self, graph: LpGraph, ctx: PassContext, block: Block, report: PassReport
    ) -> list[TunedLayer]:
        found: list[TunedLayer] = []
        for name in block.layers:
            node, plan = graph.node(name), graph.plan.layers.get(name, LayerPlan())
            if plan.tensor is None:
                continue
            if reason := fixed_codes(plan):
                report.skip(node, reason)
                continue
            bias = None if bias_obstacle(node, plan.kernel) else bias_now(node, plan)
            spread, least = output_spread(node, ctx), least_scale(graph, node, plan.kernel)
            if self.method == "adaround":
                found.append(
                    SoftLayer(node, plan.tensor, Estimator(), False, bias, spread, least, pull=self.pull)
                )
            else:
                found.append(TunedLayer(node, plan.tensor, Estimator("lsq"), True, bias, spread, least))
        return found

    def _learned(self, graph: LpGraph, reads: Reads, inside: set[str]) -> frozenset[str]:
        """Tie groups that are rounded in this block alone."""
        if self.ranges == "fixed":
            return frozenset()
        found, outside = set(), set()
        for tensor, readers in reads:
            plan = graph.plan.activations[tensor]
            who = set(readers) or {n.name for n in graph.value(tensor).consumers}
            (found if who <= inside else outside).add(plan.tie_group)
        planned = graph.plan.activations
        narrow = {p.tie_group for p in planned.values() if p.code_max < 255 or self.ranges == "all"}
        return frozenset((found - outside) & narrow)

    def _held(
        self, graph: LpGraph, block: Block, layers: Sequence[TunedLayer]
    ) -> Mapping[str, tuple[F32, F32 | None]]:
        """Layers that are rounded but not learned."""
        learned = {layer.name for layer in layers}
        found = {}
        for name in block.layers:
            plan = graph.plan.layers.get(name, LayerPlan())
            node = graph.node(name)
            if plan.tensor is None:
                continue
            if name not in learned:
                rows = from_rows(node.op, plan.tensor.dequantize(), _weight(node).shape)
                found[name] = (np.asarray(rows, np.float32), planned_bias(node, plan))
        return found

    def _write(self, graph: LpGraph, layer: TunedLayer, best: Mapping[str, F32]) -> None:
        plan = graph.plan.layers[layer.name]
        tensor, bias = layer.round(best), layer.real_bias(best)
        signal, noise = column_energy(to_rows(layer.op, _weight(layer.node)), tensor.dequantize())
        reason = plan.reason if RECONSTRUCTED in plan.reason else f"{plan.reason}; {RECONSTRUCTED}".lstrip("; ")
        graph.plan = graph.plan.with_layer(
            layer.name,
            replace(
                plan,
                tensor=tensor,
                codes_sha256=tensor.digest(),
                bias_correction=plan.bias_correction
                if bias is None
                else bias - own_bias(layer.node, bias),
                reason=reason,
                weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
                local_sqnr_db=None,
            ),
        )


def _weight(node: Node) -> F32:
    weight = node.inputs[1]
    if weight is None:
        raise PassError("a layer without weights", where=node.name)
    return np.asarray(weight.values)
