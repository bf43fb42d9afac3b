"""One block of `reconstruct-blocks`: what of it is learned, from which samples, and what comes back into the plan."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.rounding_loss import ratio_db
from lpcompile.errors import GradientError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.materialise.functions import units
from lpcompile.materialise.qdq import integer_reads, rounded_floats
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.learned_layer import bias_now, fixed_codes, output_spread, weight_of, with_learned
from lpcompile.passes.learned_range import learnable_ranges, write_ranges
from lpcompile.passes.least_scale import least_scale
from lpcompile.pipeline import PassContext
from lpcompile.plan import LayerPlan
from lpcompile.quant.fit import LIMITED_RULES
from lpcompile.quant.rows import from_rows
from lpcompile.reconstruction.block_graph import BlockGraph, Reads, block_graph
from lpcompile.reconstruction.block_samples import Batching, BlockSamples, gather, keep_shapes
from lpcompile.reconstruction.blocks import Block
from lpcompile.reconstruction.descent import Descent
from lpcompile.reconstruction.latent_rounding import LatentLayer
from lpcompile.reconstruction.outcomes import BlockOutcome
from lpcompile.reconstruction.output_fisher import OutputFisher
from lpcompile.reconstruction.soft_rounding import SoftLayer
from lpcompile.tuning.estimators import Estimator
from lpcompile.tuning.training import split_held

RECONSTRUCTED = "reconstructed"
NOT_BETTER = "its block came no nearer to the float model on held-out samples"
WORK_BYTES = 12 << 20  # of the rounded tensors of a step; gradients and copies take some ten times as much


@dataclass(frozen=True)
class Method:
    """How blocks are learned; see the options of the pass."""

    iterations: int
    batch: int
    name: str
    rate: float
    pull: float
    drop: float
    ranges: str
    sample_bytes: int


@dataclass
class BlockLearner:
    """Learns one block after the other.

    Attributes:
        graph: float graph and plan; the plan changes.
        ctx: with samples.
        batching: of the model.
        calls: samples, few a call.
        fisher: what weighs the errors, or None.
        method: how.
    """

    graph: LpGraph
    ctx: PassContext
    batching: Batching
    calls: Sequence[Feeds]
    fisher: OutputFisher | None
    method: Method

    def learn(self, block: Block, seed: int, progress: Callable[[int], None]) -> BlockOutcome:
        """Learn a block and put what was learned into the plan.

        Args:
            block: of the graph; earlier ones are done.
            seed: of batches and drops.
            progress: called with the steps done.
        """
        start = time.perf_counter()
        observe = self.ctx.observe
        assert observe is not None
        layers, fixed = self._layers(block)
        outcome = BlockOutcome(block.name, tuple(layer.name for layer in layers), "", fixed)
        if not layers:
            return replace(outcome, reason="none of its layers can be learned")
        if any(self.graph.node(name).subgraphs for name in block.nodes):
            return replace(outcome, reason="control flow runs in its block")
        reads = self._reads()
        inner = [t for t, who in reads if who & set(block.nodes)]
        keeps = keep_shapes(self.graph, inner, self.batching, observe, self.calls)
        try:
            made = self._made(block, layers, reads, drops=all(t in keeps for t in inner))
        except GradientError as error:
            return replace(outcome, reason=f"its block cannot be learned: {error.message} ({error.where})")
        data = self._gathered(made, block)
        at, held = split_held(data.samples.count)
        work = 4 * sum(int(np.prod(keeps[t].one)) for t in inner if t in keeps)
        batch = max(1, min(self.method.batch, WORK_BYTES // max(1, work)))
        descent = Descent(
            made,
            observe(made.student.trained, made.tensors),
            observe(made.student.judged, [made.student.loss]),
            data,
            keeps,
            at,
            held,
            self.method.iterations,
            batch,
            self.method.rate,
            self.method.drop,
            seed,
        )
        try:
            best = descent.run(progress)
        except GradientError as error:
            return replace(outcome, reason=f"{error.message}: a smaller learning-rate may help")
        if best is not None:
            self._write(made, best)
        power = sum(data.signal.values())
        before, after = (ratio_db(power, loss) or 0.0 for loss in (descent.losses[0], min(descent.losses)))
        return replace(
            outcome,
            reason="" if best is not None else NOT_BETTER,
            before_db=before,
            after_db=after,
            samples=data.samples.count,
            iterations=self.method.iterations,
            batch=batch,
            seconds=time.perf_counter() - start,
        )

    def _layers(self, block: Block) -> tuple[list[LatentLayer], dict[str, str]]:
        found: list[LatentLayer] = []
        fixed: dict[str, str] = {}
        for name in block.layers:
            node, plan = self.graph.node(name), self.graph.plan.layers.get(name, LayerPlan())
            if plan.tensor is None:
                continue
            if reason := fixed_codes(plan):
                fixed[name] = reason
                continue
            bias = None if bias_obstacle(node, plan.kernel) else bias_now(node, plan)
            spread = output_spread(node, self.ctx)
            least = least_scale(self.graph, node, plan.kernel, plan.weight)
            learns = plan.weight.scale_rule not in LIMITED_RULES and plan.weight.scale_format == "float32"
            learns &= not self.graph.plan.scales_held(name)
            made = (SoftLayer if self.method.name == "adaround" else LatentLayer)(
                node, plan.tensor, Estimator("lsq"), learns, bias, spread, least, pull=self.method.pull
            )
            found.append(made)
        return found, fixed

    def _reads(self) -> Reads:
        """Tensors that are rounded, and all who read them rounded."""
        return [
            (v.name, frozenset(n.name for n in (readers or v.consumers)))
            for v, readers in integer_reads(self.graph, units(self.graph))
        ]

    def _made(self, block: Block, layers: Sequence[LatentLayer], reads: Reads, *, drops: bool) -> BlockGraph:
        return block_graph(
            self.graph,
            block,
            layers,
            self.graph.plan.activations,
            reads,
            learned=self._learned_ranges(reads, frozenset(block.nodes)),
            free_batch=self.batching.batched is not None,
            drops=drops and self.method.drop > 0,
            weighted=self.fisher is not None,
            held=self._held(block, layers),
        )

    def _learned_ranges(self, reads: Reads, inside: frozenset[str]) -> dict[str, float]:
        """Tie groups that are rounded in this block alone, of the widths that are asked for -> least scale."""
        planned = self.graph.plan.activations
        outside = {planned[t].tie_group for t, who in reads if not who <= inside}
        own = {planned[t].tie_group for t, who in reads if who <= inside} - outside
        return {g: x for g, x in learnable_ranges(self.graph, self.method.ranges).items() if g in own}

    def _held(self, block: Block, layers: Sequence[LatentLayer]) -> dict[str, tuple[F32, F32 | None]]:
        """Layers of the block that are rounded but not learned."""
        found = {}
        for name in set(block.layers) - {layer.name for layer in layers}:
            plan, node = self.graph.plan.layers.get(name, LayerPlan()), self.graph.node(name)
            if plan.tensor is not None:
                rows = from_rows(node.op, plan.tensor.dequantize(), weight_of(node).shape)
                found[name] = (np.asarray(rows, np.float32), planned_bias(node, plan))
        return found

    def _gathered(self, made: BlockGraph, block: Block) -> BlockSamples:
        observe = self.ctx.observe
        assert observe is not None
        return gather(
            made,
            block,
            self.batching,
            self.calls,
            observe(self.graph, [*block.inputs, *block.side, *block.outputs]),
            observe(rounded_floats(self.graph), block.inputs),
            None if self.fisher is None else self.fisher.weights_at(block.outputs),
            self.method.sample_bytes,
        )

    def _write(self, made: BlockGraph, best: Mapping[str, F32]) -> None:
        for layer in made.layers:
            plan = with_learned(self.graph.plan.layers[layer.name], layer, best, RECONSTRUCTED)
            self.graph.plan = self.graph.plan.with_layer(layer.name, plan)
        write_ranges(self.graph, made.scales, best)
