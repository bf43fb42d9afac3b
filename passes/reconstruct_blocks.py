"""Learn the rounding of a few layers together, from what they shall put out: block reconstruction.

Block after block, in execution order: what comes in is that of the network rounded so far, what shall come out is the
float model's. Codes, biases and the ranges of narrow activations are learned by gradient descent; a block whose error
on held-out samples did not fall stays as it was, and all of them where the network as a whole lost. [li2021, wei2022]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lpcompile import option_checks
from lpcompile.errors import GradientError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.expected_time import LEARNING, labelled, samples_of
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.learned_layer import made_for
from lpcompile.passes.learned_range import RANGES
from lpcompile.passes.reconstructed_block import BlockLearner, Method
from lpcompile.pipeline import Pass, PassContext
from lpcompile.reconstruction.block_samples import Batching
from lpcompile.reconstruction.blocks import Block, find_blocks
from lpcompile.reconstruction.outcomes import BlockOutcome, of_state, to_state
from lpcompile.reconstruction.output_fisher import OutputFisher
from lpcompile.records import PassReport
from lpcompile.tuning.checkpoint import Checkpoints

METHODS = ("ste", "adaround")
LOSSES = ("fisher", "mse")
FOLDER = "blocks"  # of checkpoints
GATHERED = 8  # samples a call while inputs and outputs are gathered


@dataclass(frozen=True, slots=True)
class ReconstructBlocks(Pass):
    """Block reconstruction.

    Attributes:
        iterations: steps a block.
        batch: samples a step; fewer where they are large.
        method: ste (latent weights, straight through) or adaround (each weight between its two neighbouring levels).
        learning-rate: in steps of each weight's quantiser.
        pull: of weights to their levels towards the end, in units of the loss before.
        drop: share of the numbers that stay floats in a step.
        ranges: activations whose range is learned: narrow (below 8 bits), all, or fixed (none).
        loss: squared error of the block's outputs, plain (mse) or weighted by what the model's outputs mind (fisher).
        joined: the most layers of blocks that are joined of smaller parts.
        samples-mb: memory for the samples of a block; fewer samples where they take more.
    """

    name: ClassVar[str] = "reconstruct-blocks"
    summary: ClassVar[str] = (
        "learn codes, biases and narrow ranges block by block, from the float model's tensors"
    )
    takes: ClassVar[tuple[str, ...]] = ("checkpoint", "resume")
    exact: ClassVar[bool] = False
    many_temporaries: ClassVar[bool] = True
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    iterations: int = 400
    batch: int = 16
    method: str = "ste"
    learning_rate: float = 0.01
    pull: float = 20.0
    drop: float = 0.5
    ranges: str = "narrow"
    loss: str = "fisher"
    joined: int = 3
    samples_mb: int = 512

    def __post_init__(self) -> None:
        option_checks.one_of("method", self.method, METHODS)
        option_checks.one_of("ranges", self.ranges, RANGES)
        option_checks.one_of("loss", self.loss, LOSSES)
        option_checks.at_least("iterations", self.iterations)
        option_checks.at_least("batch", self.batch)
        option_checks.at_least("joined", self.joined)
        option_checks.at_least("samples-mb", self.samples_mb)
        option_checks.share("drop", self.drop)
        option_checks.positive("learning-rate", self.learning_rate)
        option_checks.not_negative("pull", self.pull)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Reconstruct every block that has rounded layers; codes, biases and ranges go into the plan.

        Raises:
            InputError: the checkpoint is of another model or other options.
            OutputError: there are checkpoints of another run, or they cannot be written.
        """
        report = PassReport(self.name)
        if ctx.calibration is None or ctx.calibration.generated or ctx.observe is None:
            ctx.warnings.append("blocks are not reconstructed: there is no calibration data")
            for node in graph.layers():
                report.skip(node, "no calibration data to learn from")
            return report
        blocks = find_blocks(graph, joined=self.joined)
        blocks = [b for b in blocks if any(_is_rounded(graph, name) for name in b.layers)]
        if not blocks:
            return report
        checkpoints = None
        if ctx.checkpoint is not None:
            checkpoints = Checkpoints(ctx.checkpoint / FOLDER, made_for(self, graph, ctx))
        unlearned = graph.plan
        outcomes = _begun(graph, ctx, checkpoints)
        learner = self._learner(graph, ctx, blocks)
        total = len(blocks) * self.iterations
        label = labelled("reconstructing blocks", graph, ctx, self._runs(graph, ctx, len(blocks)), total)
        ctx.progress(label, len(outcomes) * self.iterations, total)
        for i, block in enumerate(blocks[len(outcomes) :], len(outcomes)):
            first = i * self.iterations

            def told(steps: int, before: int = first) -> None:
                ctx.progress(label, before + steps, total)

            outcomes.append(learner.learn(block, ctx.seed + i, told))
            told(self.iterations)
            if checkpoints is not None:
                checkpoints.save(i + 1, to_state(graph.plan, outcomes))
        for i, outcome in enumerate(outcomes):
            _tell(report, i, outcome)
        keep_if_better(graph, ctx, unlearned, report)
        return report

    def _runs(self, graph: LpGraph, ctx: PassContext, blocks: int) -> float:
        """Runs of the float network that it takes: the steps of all blocks, and their samples one after the other."""
        assert ctx.calibration is not None
        return LEARNING * self.iterations * self.batch + blocks * samples_of(graph, ctx.calibration.deciding)

    def _learner(self, graph: LpGraph, ctx: PassContext, blocks: Sequence[Block]) -> BlockLearner:
        assert ctx.observe is not None
        assert ctx.calibration is not None
        deciding = ctx.calibration.deciding
        tensors = list(dict.fromkeys(t for b in blocks for t in (*b.inputs, *b.side, *b.outputs)))
        batching = Batching.of(graph, tensors, ctx.observe, deciding)
        calls = batching.calls(deciding, GATHERED)
        method = Method(
            self.iterations,
            self.batch,
            self.method,
            self.learning_rate,
            self.pull,
            self.drop,
            self.ranges,
            self.samples_mb << 20,
        )
        fisher = None
        if self.loss == "fisher":
            outputs = list(dict.fromkeys(t for b in blocks for t in b.outputs))
            joined = batching.batched is not None
            try:
                fisher = OutputFisher(graph, outputs, ctx.observe, calls, per_sample=joined, seed=ctx.seed)
            except GradientError as error:
                ctx.warnings.append(f"blocks are compared by their plain squared error: {error.message}")
        return BlockLearner(graph, ctx, batching, calls, fisher, method)


def _is_rounded(graph: LpGraph, name: str) -> bool:
    return name in graph.plan.layers and graph.plan.layers[name].tensor is not None


def _begun(graph: LpGraph, ctx: PassContext, checkpoints: Checkpoints | None) -> list[BlockOutcome]:
    """Outcomes of blocks that are done already; the plan takes what they learned."""
    if checkpoints is None:
        return []
    if not ctx.resume:
        checkpoints.refuse_existing()
        return []
    found = checkpoints.latest()
    if found is None:
        return []
    graph.plan, outcomes = of_state(graph.plan, found[1])
    return outcomes


def _tell(report: PassReport, index: int, outcome: BlockOutcome) -> None:
    for name, reason in outcome.fixed.items():
        report.skip(name, reason)
    if outcome.iterations:
        numbers = {
            "before_db": outcome.before_db,
            "after_db": outcome.after_db,
            "samples": outcome.samples,
            "iterations": outcome.iterations,
            "batch": outcome.batch,
            "seconds": outcome.seconds,
        }
        report.metrics |= {f"block_{index:03d}_{k}": v for k, v in numbers.items()}
    if outcome.reason:
        for name in outcome.layers:
            report.skip(name, outcome.reason)
        return
    for name in outcome.layers:
        report.change(
            name,
            f"codes learned in block {index} ({outcome.name})",
            f"{outcome.before_db:.1f} dB",
            f"{outcome.after_db:.1f} dB",
        )
