"""Tune what stands around the codes, all of it together; the codes stay.

Channel scales of weights, biases, norms and ranges of activations have few numbers, so that little data may train them
at once, against the float model's outputs: the last stage of post-training methods that learn. [esser2020]
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.learned_layer import bias_now, made_for, output_spread, with_learned
from lpcompile.passes.learned_range import RANGES, write_ranges
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.retraining import Retraining, trainable_norms, write_norms
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import LayerPlan
from lpcompile.quant.fit import LIMITED_RULES
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.records import PassReport
from lpcompile.tuning.checkpoint import Checkpoints
from lpcompile.tuning.frozen_codes import FrozenLayer
from lpcompile.tuning.targets import LOSSES
from lpcompile.tuning.training import Arrays, Training

TUNED = "scales tuned"
FOLDER = "scales"  # of checkpoints
WITHOUT_LABELS = tuple(name for name in LOSSES if name != "cross-entropy")


@dataclass(frozen=True, slots=True)
class TuneScales(Pass):
    """Training of scales, biases, norms and ranges.

    Attributes:
        epochs: how often each sample is seen.
        batch: samples a step.
        learning-rate: of Adam; a scale is 10 units, a bias 10 for the spread of its output.
        loss: kl or mse, both against the float model; kl-or-mse: kl where outputs give classes; auto: mse.
        ranges: activations whose range is trained too: narrow (below 8 bits), all, or fixed (none).
        required: whether a model without gradients is an error; else a warning.
    """

    name: ClassVar[str] = "tune-scales"
    summary: ClassVar[str] = "train scales, biases, norms and ranges together on the samples; the codes stay"
    takes: ClassVar[tuple[str, ...]] = ("checkpoint", "resume")
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    epochs: int = 10
    batch: int = 16
    learning_rate: float = 0.001
    loss: str = "kl-or-mse"
    ranges: str = "narrow"
    required: bool = True

    def __post_init__(self) -> None:
        option_checks.one_of("loss", self.loss, WITHOUT_LABELS)
        option_checks.one_of("ranges", self.ranges, RANGES)
        option_checks.at_least("epochs", self.epochs)
        option_checks.at_least("batch", self.batch)
        option_checks.positive("learning-rate", self.learning_rate)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Train, and put the best state into the plan, where the network as a whole gained by it.

        Raises:
            GradientError: an operator has no gradient, or training left the finite numbers.
            InputError: the checkpoint is of another model or other options.
            OutputError: there are checkpoints of another run, or they cannot be written.
        """
        report = PassReport(self.name)
        how = Retraining.beside_codes(
            "scales",
            "tuning scales",
            self.loss,
            self.ranges,
            self.learning_rate,
            self.epochs,
            self.batch,
            required=self.required,
        )
        if how.obstacle(graph, ctx, report):
            return report
        layers = _layers(graph, ctx, report)
        if not layers:
            return report
        checkpoints = None
        if ctx.checkpoint is not None:
            checkpoints = Checkpoints(ctx.checkpoint / FOLDER, made_for(self, graph, ctx))
        found = how.run(graph, ctx, layers, trainable_norms(graph), checkpoints, report)
        if found is not None:
            before = graph.plan
            _write_back(graph, *found, layers, report)
            keep_if_better(graph, ctx, before, report, stays="all stays as it was")
        return report


def _layers(graph: LpGraph, ctx: PassContext, report: PassReport) -> list[FrozenLayer]:
    found = []
    for node in graph.layers():
        plan = graph.plan.layers.get(node.name, LayerPlan())
        if plan.tensor is None:
            continue
        fixed = _fixed_scales(plan) or graph.plan.scales_held(node.name)
        unbiased = bias_obstacle(node, plan.kernel)
        if fixed and unbiased:
            report.skip(node, f"{fixed}, and its bias does: {unbiased}")
            continue
        if fixed:
            report.skip(node, f"{fixed}; its bias is trained")
        found.append(
            FrozenLayer(
                node,
                plan.tensor,
                not fixed,
                None if unbiased else bias_now(node, plan),
                output_spread(node, ctx),
                None
                if fixed
                else _least_shares(least_scale(graph, node, plan.kernel, plan.weight), plan.tensor),
            )
        )
    return found


def _fixed_scales(plan: LayerPlan) -> str:
    """Why the scales of a layer stay; empty where they can be trained."""
    assert plan.tensor is not None
    if plan.weight.scale_rule in LIMITED_RULES:
        return f"its scales keep to their rule '{plan.weight.scale_rule}'"
    if isinstance(plan.tensor.granularity, PerGroup) and not plan.tensor.has_integer_groups:
        return "its group scales are no integers"
    return ""


def _least_shares(least: np.ndarray | None, tensor: QuantizedTensor) -> np.ndarray | None:
    """(C,) least scales of the int8 image over those of the plan."""
    if least is None:
        return None
    return np.asarray(least / tensor.int8_image()[1], np.float32)


def _write_back(
    graph: LpGraph, training: Training, best: Arrays, layers: list[FrozenLayer], report: PassReport
) -> None:
    moved = []
    for layer in layers:
        plan = graph.plan.layers[layer.name]
        graph.plan = graph.plan.with_layer(layer.name, with_learned(plan, layer, best, TUNED))
        said = []
        if layer.learn_scales:
            moved.append(layer.moved(best))
            most, share = 100 * float(moved[-1].max()), 100 * float((moved[-1] > 0).mean())
            said.append(f"{share:.0f} % of its scales moved, by {most:.2g} % at most")
        bias = layer.real_bias(best)
        if bias is not None and layer.bias is not None:
            said.append(f"bias by {float(np.abs(bias - layer.bias).max()):.3g} at most")
        report.change(layer.name, TUNED, after="; ".join(said))
    write_norms(graph, training.norms, best, TUNED)
    for norm in training.norms:
        report.change(norm.name, "tuned, " + ", ".join(norm.roles))
    for tensor in write_ranges(graph, training.scales, best):
        report.change(tensor, "range tuned")
    shares = np.concatenate(moved) if moved else np.zeros(1)
    report.metrics |= {
        "moved_scales_share": float((shares > 0).mean()),
        "largest_move": float(shares.max()),
    }
