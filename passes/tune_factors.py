"""Train the factors of low-rank side paths on the samples that rounding changes most; the codes stay.

The closed forms of `insert-lora` see one layer at a time. Here all factors learn together from the outputs of the float
model, no labels needed, and are held in 8 bits again in every step. [jayasuriya2024]
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.calibration import RunFeeds
from lpcompile.analysis.gain import gain_db
from lpcompile.errors import PassError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.learned_layer import bias_now, made_for, output_spread, with_learned
from lpcompile.passes.retraining import Retraining, trainable_norms, write_norms
from lpcompile.passes.tune_scales import WITHOUT_LABELS
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import LayerPlan
from lpcompile.records import PassReport
from lpcompile.tuning.checkpoint import Checkpoints
from lpcompile.tuning.factors import FactorLayer
from lpcompile.tuning.frozen_codes import FrozenLayer
from lpcompile.tuning.layer_arrays import Arrays
from lpcompile.tuning.optimisers import Schedule
from lpcompile.tuning.sample_choice import OF_CLASSES, SCORES, chosen, classes_of, has_classes, scores
from lpcompile.tuning.training import Training

TRAINED, BIAS_TRAINED = "factors trained", "bias trained beside factors"
FOLDER = "factors"  # of checkpoints
SPARED_SHARE = 8  # one sample in eight says whether the training is kept
NOT_BETTER = "the trained factors are no better on samples that took no part: all stays as it was"


@dataclass
class _Choice:
    """Samples to learn from, and samples that are spared for the last word."""

    by: str
    count: int
    how: Retraining
    seed: int
    warnings: list[str]
    pool: int = 0
    spared: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))

    def __call__(self, training: Training, run: RunFeeds) -> Training:
        """The training with those samples alone; what is spared is spared first."""
        train = training.train
        self.spared = train
        if len(train) >= SPARED_SHARE:
            at = np.linspace(SPARED_SHARE / 2, len(train) - 1, len(train) // SPARED_SHARE).astype(int)
            self.spared, train = train[at], np.delete(train, at)
        else:
            self.warnings.append(f"{len(train)} samples to train factors on: none is spared to judge them")
        self.pool = len(train)
        training = replace(training, train=train)
        if 0 < self.count < len(train):
            by = self.by
            if by in OF_CLASSES and not has_classes(training):
                self.warnings.append(f"no output gives classes: samples are chosen by noise, not by {by}")
                by = "noise"
            classes = np.zeros(len(train)) if by == "random" else classes_of(training)
            found = scores(by, training, run, self.seed)
            training = replace(training, train=train[chosen(found, classes, self.count, self.seed)])
        total = self.how.epochs * training.samples.batch_count(len(training.train), self.how.batch)
        schedule = Schedule(self.how.rate, total, self.how.schedule, self.how.warm_up)
        return replace(training, schedule=schedule)


@dataclass(frozen=True, slots=True)
class TuneFactors(Pass):
    """Training of the factors of side paths, with biases and norms.

    Attributes:
        epochs: how often each sample is seen.
        batch: samples a step.
        learning-rate: of Adam; a unit is a step of a factor's 8 bits, and a tenth of the spread of its output for a
            bias.
        loss: kl or mse, both against the float model; kl-or-mse: kl where outputs give classes; auto: mse.
        samples: how many are learned from; 0: all.
        select: by what they are chosen, one of `tuning.sample_choice.SCORES`.
        required: whether a model without gradients is an error; else a warning.
    """

    name: ClassVar[str] = "tune-factors"
    summary: ClassVar[str] = (
        "train the factors of side paths on the samples that rounding changes most; the codes stay"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    epochs: int = 10
    batch: int = 16
    learning_rate: float = 0.01
    loss: str = "auto"
    samples: int = 0
    select: str = "kl"
    required: bool = True

    def __post_init__(self) -> None:
        option_checks.one_of("loss", self.loss, WITHOUT_LABELS)
        option_checks.one_of("select", self.select, SCORES)
        option_checks.at_least("epochs", self.epochs)
        option_checks.at_least("batch", self.batch)
        option_checks.at_least("samples", self.samples, 0)
        option_checks.positive("learning-rate", self.learning_rate)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Train, and put the best state into the plan, where samples that took no part say that it is better.

        Raises:
            GradientError: an operator has no gradient, or training left the finite numbers.
            InputError: the checkpoint is of another model or other options.
            OutputError: there are checkpoints of another run, or they cannot be written.
        """
        report = PassReport(self.name)
        how = Retraining.beside_codes(
            "factors",
            "training factors",
            self.loss,
            "fixed",
            self.learning_rate,
            self.epochs,
            self.batch,
            required=self.required,
        )
        if how.obstacle(graph, ctx, report):
            return report
        layers = _layers(graph, ctx, report)
        if not any(isinstance(layer, FactorLayer) for layer in layers):
            return report
        choice = _Choice(self.select, self.samples, how, ctx.seed, ctx.warnings)
        checkpoints = None
        if ctx.checkpoint is not None:
            checkpoints = Checkpoints(ctx.checkpoint / FOLDER, made_for(self, graph, ctx))
        codes = _codes(graph)
        norms = trainable_norms(graph)
        found = replace(how, narrowed=choice).run(graph, ctx, layers, norms, checkpoints, report)
        if found is None:
            return report
        training, best = found
        report.metrics |= {"samples_to_choose_from": choice.pool, **_gain(training, best, choice.spared)}
        if report.metrics["spared_gain_db"] <= 0:
            report.skip("all layers", NOT_BETTER)
            return report
        _write_back(graph, training, best, layers, report)
        if _codes(graph) != codes:
            raise PassError("training factors changed codes of main paths")
        report.metrics["main_codes_unchanged"] = len(codes)
        return report


def _layers(graph: LpGraph, ctx: PassContext, report: PassReport) -> list[FactorLayer | FrozenLayer]:
    found: list[FactorLayer | FrozenLayer] = []
    for node in graph.layers():
        plan = graph.plan.layers.get(node.name, LayerPlan())
        if plan.tensor is None:
            continue
        bias = None if bias_obstacle(node, plan.kernel) else bias_now(node, plan)
        spread = output_spread(node, ctx)
        if plan.tensor.side is None:
            kept = "" if bias is None else "; its bias is trained"
            report.skip(node, f"it has no side path{kept}")
            found.append(FrozenLayer(node, plan.tensor, False, bias, spread))
        else:
            found.append(FactorLayer(node, plan.tensor, bias, spread))
    return found


def _codes(graph: LpGraph) -> dict[str, str]:
    """Digests of the main paths, codes and scales."""
    return {name: p.tensor.main.digest() for name, p in graph.plan.layers.items() if p.tensor is not None}


def _gain(training: Training, best: Arrays, spared: np.ndarray) -> dict[str, float]:
    """What the loss of spared samples gained, in dB, with its standard error where there are two."""
    start = {k: a for t in training.trained for k, a in t.start().items()}
    terms = [np.asarray([training.loss(values, [i]) for i in spared]) for values in (start, best)]
    gain, error = gain_db(*terms)
    return {
        "spared_samples": len(spared),
        "spared_gain_db": gain,
        **({"spared_gain_error_db": error} if np.isfinite(error) else {}),
    }


def _write_back(
    graph: LpGraph,
    training: Training,
    best: Arrays,
    layers: list[FactorLayer | FrozenLayer],
    report: PassReport,
) -> None:
    for layer in layers:
        plan = graph.plan.layers[layer.name]
        factors = isinstance(layer, FactorLayer)
        if not factors and layer.bias is None:
            continue
        how = TRAINED if factors else BIAS_TRAINED
        said = (
            [f"{100 * layer.moved(best):.2g} % of the path moved"] if isinstance(layer, FactorLayer) else []
        )
        bias = layer.real_bias(best)
        if bias is not None and layer.bias is not None:
            said.append(f"bias by {float(np.abs(bias - layer.bias).max()):.3g} at most")
        graph.plan = graph.plan.with_layer(layer.name, with_learned(plan, layer, best, how))
        report.change(layer.name, how, after="; ".join(said))
    write_norms(graph, training.norms, best, TRAINED)
    for norm in training.norms:
        report.change(norm.name, "trained beside factors, " + ", ".join(norm.roles))
