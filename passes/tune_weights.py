"""Retrain the rounded weights on the calibration samples; they come back as codes.

Latent float weights are rounded in every forward step as they are planned, activations are rounded as planned, and
the gradient graph of the float model says how the outputs come nearer to the float model's (or to labels). Which
gradient stands for the rounding is an option: straight-through, learned step sizes, the corrected tanh. [mixed-posit
2.9, 3]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.learned_layer import bias_now, fixed_codes, made_for, output_spread, with_learned
from lpcompile.passes.learned_range import RANGES, write_ranges
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.retraining import Retraining, trainable_norms, write_norms
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import LayerPlan
from lpcompile.quant.fit import LIMITED_RULES
from lpcompile.records import PassReport
from lpcompile.tuning.checkpoint import Checkpoints
from lpcompile.tuning.estimators import ESTIMATORS, Estimator
from lpcompile.tuning.optimisers import Schedule, optimiser
from lpcompile.tuning.parameters import TunedLayer
from lpcompile.tuning.targets import LOSSES
from lpcompile.tuning.training import Arrays, Training

BATCHNORM = ("frozen", "batch", "off")
SCALES = ("auto", "fixed", "learned")
RATES = {"adam": 0.003, "sgd": 0.2, "nesterov": 0.2}  # in steps of the quantiser
RETRAINED = "retrained"


@dataclass(frozen=True, slots=True)
class TuneWeights(Pass):
    """Quantisation-aware retraining.

    Attributes:
        epochs: how often each sample is seen.
        batch: samples a step.
        optimiser: adam, sgd or nesterov.
        learning-rate: in steps of each weight's quantiser; 0: the optimiser's own.
        schedule: cosine or constant.
        warm-up: share of the steps in which the rate rises.
        momentum: of sgd and nesterov.
        weight-decay: of weights.
        clip: largest norm of all gradients together; 0: any.
        estimator: tanh, ste, linear or lsq for every layer; auto: tanh for posits, lsq for integers, else ste.
        table-estimator: another one for formats whose steps are not all equal.
        steepness: of tanh and linear.
        outside: gradient of weights beyond the largest level: clipped (0) or through (1).
        scales: fixed, learned, or auto: learned by lsq. Scales stored in 8 bits lie 3 to 6 % apart: short trainings
            do not move them.
        loss: mse or kl, both against the float model (auto: mse; kl-or-mse: kl where outputs give classes), or
            cross-entropy, on labels.
        labels: name of the array of labels among the samples.
        batchnorm: parameters of norms in the graph: frozen (trained on the stored statistics), batch (on those of each
            batch, with running averages) or off (not trained).
        ranges: activations whose scale is trained too: fixed (none), narrow (below 8 bits) or all.
        required: whether a model without gradients is an error; else a warning, and what loses is undone.
    """

    name: ClassVar[str] = "tune-weights"
    summary: ClassVar[str] = "retrain rounded weights and biases on the samples; they come back as codes"
    takes: ClassVar[tuple[str, ...]] = ("calibration", "checkpoint", "resume")
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    epochs: int = 20
    batch: int = 16
    optimiser: str = "adam"
    learning_rate: float = 0.0
    schedule: str = "cosine"
    warm_up: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float = 0.0
    estimator: str = "auto"
    table_estimator: str = ""
    steepness: float = 5.0
    outside: str = "clipped"
    scales: str = "auto"
    loss: str = "auto"
    labels: str = "labels"
    batchnorm: str = "frozen"
    ranges: str = "fixed"
    required: bool = True

    def __post_init__(self) -> None:
        option_checks.one_of("estimator", self.estimator, ("auto", *ESTIMATORS))
        option_checks.one_of("table-estimator", self.table_estimator, ("", *ESTIMATORS))
        option_checks.one_of("scales", self.scales, SCALES)
        option_checks.one_of("loss", self.loss, LOSSES)
        option_checks.one_of("batchnorm", self.batchnorm, BATCHNORM)
        option_checks.one_of("ranges", self.ranges, RANGES)
        option_checks.at_least("epochs", self.epochs)
        option_checks.at_least("batch", self.batch)
        option_checks.not_negative("learning-rate", self.learning_rate)
        option_checks.not_negative("weight-decay", self.weight_decay)
        option_checks.not_negative("clip", self.clip)
        option_checks.not_negative("momentum", self.momentum)
        optimiser(self.optimiser)
        Schedule(1.0, 1, self.schedule, self.warm_up)
        Estimator("ste", self.steepness, self.outside)

    @property
    def wanted_labels(self) -> str | None:
        """Name of the array of labels that the samples must bring; None: none."""
        return self.labels if self.loss == "cross-entropy" else None

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Train, and put the best codes and biases into the plan.

        Raises:
            GradientError: an operator has no gradient, or training left the finite numbers.
            CalibrationError: labels are missing or out of range.
        """
        report = PassReport(self.name)
        how = self._retraining(graph)
        if how.obstacle(graph, ctx, report):
            return report
        layers = self._layers(graph, ctx, report)
        if not layers:
            return report
        norms = [] if self.batchnorm == "off" else trainable_norms(graph, running=self.batchnorm == "batch")
        checkpoints = None
        if ctx.checkpoint is not None:
            checkpoints = Checkpoints(ctx.checkpoint, made_for(self, graph, ctx))
        found = how.run(graph, ctx, layers, norms, checkpoints, report)
        if found is not None:
            before = graph.plan
            self._write_back(graph, *found, layers, report)
            if not self.required:  # nobody asked for it: an effort did
                keep_if_better(graph, ctx, before, report)
        return report

    def _retraining(self, graph: LpGraph) -> Retraining:
        method = optimiser(
            self.optimiser,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            decayed=frozenset(f"{layer.name}/weight" for layer in graph.layers()),
        )
        return Retraining(
            "weights",
            "retraining",
            self.loss,
            self.ranges,
            method,
            self.learning_rate or RATES[self.optimiser],
            self.schedule,
            self.warm_up,
            self.epochs,
            self.batch,
            self.clip,
            self.required,
        )

    # what is trained

    def _layers(self, graph: LpGraph, ctx: PassContext, report: PassReport) -> list[TunedLayer]:
        found = []
        for node in graph.layers():
            plan = graph.plan.layers.get(node.name, LayerPlan())
            if plan.tensor is None:
                continue
            if reason := fixed_codes(plan):
                report.skip(node, reason)
                continue
            estimator = self._estimator(resolve(plan.weight.format))
            found.append(
                TunedLayer(
                    node,
                    plan.tensor,
                    estimator,
                    self._learns_scales(plan, estimator) and not graph.plan.scales_held(node.name),
                    None if bias_obstacle(node, plan.kernel) else bias_now(node, plan),
                    output_spread(node, ctx),
                    least_scale(graph, node, plan.kernel, plan.weight),
                )
            )
        return found

    def _estimator(self, fmt: NumberFormat) -> Estimator:
        uniform = len(np.unique(np.diff(fmt.grid()))) == 1
        name = self.table_estimator if self.table_estimator and not uniform else self.estimator
        if name == "auto":
            name = "lsq" if uniform else "tanh" if fmt.name.startswith("posit") else "ste"
        return Estimator(name, self.steepness, self.outside)

    def _learns_scales(self, plan: LayerPlan, estimator: Estimator) -> bool:
        if plan.weight.scale_rule in LIMITED_RULES:
            return False  # they would not keep to their rule
        return self.scales == "learned" or (self.scales == "auto" and estimator.learns_scales)

    # what comes back

    def _write_back(
        self,
        graph: LpGraph,
        training: Training,
        best: Arrays,
        layers: Sequence[TunedLayer],
        report: PassReport,
    ) -> None:
        changed = total = 0
        for layer in layers:
            plan = graph.plan.layers[layer.name]
            assert plan.tensor is not None
            learned = with_learned(plan, layer, best, RETRAINED)
            assert learned.tensor is not None
            codes = learned.tensor.codes
            moved = int(np.count_nonzero(codes != plan.tensor.codes))
            changed, total = changed + moved, total + codes.size
            graph.plan = graph.plan.with_layer(layer.name, learned)
            share = f"{100 * moved / max(1, codes.size):.1f} % of its codes"
            report.change(layer.name, f"retrained, {layer.estimator.name}", after=share)
        write_norms(graph, training.norms, best, RETRAINED)
        for norm in training.norms:
            report.change(norm.name, "retrained, " + ", ".join(norm.roles))
        for tensor in write_ranges(graph, training.scales, best):
            report.change(tensor, "range retrained")
        report.metrics["changed_codes_share"] = changed / max(1, total)
