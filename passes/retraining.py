"""What passes have in common that train a rounded network as a whole: norms, ranges, targets, samples, the report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.calibration import RunFeeds
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.materialise.qdq import fake_quantised, scale_node
from lpcompile.passes.expected_time import LEARNING, labelled, samples_of
from lpcompile.passes.learned_range import learnable_ranges
from lpcompile.pipeline import PassContext
from lpcompile.plan import NormPlan
from lpcompile.records import PassReport
from lpcompile.tuning.activation_scales import TunedScale
from lpcompile.tuning.batches import Samples, may_join
from lpcompile.tuning.checkpoint import Checkpoints
from lpcompile.tuning.layer_arrays import TrainedLayer
from lpcompile.tuning.optimisers import Optimiser, Schedule, optimiser
from lpcompile.tuning.parameters import TunedNorm
from lpcompile.tuning.student import Student, make_student
from lpcompile.tuning.targets import compared, label_targets, signal
from lpcompile.tuning.training import Arrays, Runs, Training, split_held

NORMS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization")
NO_SAMPLES = "no calibration data to retrain on"
NOT_LOWER = "retraining did not lower the loss on held-out samples"


@dataclass(frozen=True)
class Retraining:
    """How a network is trained.

    Attributes:
        subject: what of it, for messages: "weights", "scales".
        label: of the progress.
        loss: one of `tuning.targets.LOSSES`.
        ranges: activations whose scale is trained too, one of `learned_range.RANGES`.
        method: takes the steps.
        rate: of its largest step.
        schedule, warm_up: of the rate.
        epochs: how often each sample is seen.
        batch: samples a step.
        clip: largest norm of all gradients together; 0: any.
        required: whether a model without gradients is an error; else a warning.
        narrowed: takes some of the samples, given the training and what runs `student.compared` of its judged graph.
    """

    subject: str
    label: str
    loss: str
    ranges: str
    method: Optimiser
    rate: float
    schedule: str
    warm_up: float
    epochs: int
    batch: int
    clip: float = 0.0
    required: bool = True
    narrowed: Callable[[Training, RunFeeds], Training] | None = None  # to some of its samples

    @classmethod
    def beside_codes(
        cls,
        subject: str,
        label: str,
        loss: str,
        ranges: str,
        rate: float,
        epochs: int,
        batch: int,
        *,
        required: bool,
    ) -> "Retraining":
        """Of what stands beside codes that stay: by Adam, the rate along a cosine after a short rise."""
        return cls(
            subject,
            label,
            loss,
            ranges,
            optimiser("adam"),
            rate,
            "cosine",
            0.05,
            epochs,
            batch,
            required=required,
        )

    def obstacle(self, graph: LpGraph, ctx: PassContext, report: PassReport) -> bool:
        """Whether there are no samples to train on; the report and the user are told."""
        if ctx.calibration is not None and not ctx.calibration.generated and ctx.observe is not None:
            return False
        ctx.warnings.append(f"{self.subject} are not retrained: there is no calibration data")
        for node in graph.layers():
            report.skip(node, NO_SAMPLES)
        return True

    def run(
        self,
        graph: LpGraph,
        ctx: PassContext,
        layers: Sequence[TrainedLayer],
        norms: Sequence[TunedNorm],
        checkpoints: Checkpoints | None,
        report: PassReport,
    ) -> tuple[Training, Arrays] | None:
        """Train; losses go into the report. The best state, or None, with the reasons, where nothing won.

        Raises:
            GradientError: an operator has no gradient, or training left the finite numbers.
            CalibrationError: labels are missing or out of range.
        """
        start = time.perf_counter()
        try:
            training = self._training(graph, ctx, layers, norms, checkpoints)
            before = training.loss(training.values, training.train)
            best = training.run(resume=ctx.resume)
        except GradientError as error:
            if self.required:
                raise
            ctx.warnings.append(f"{self.subject} are not retrained: {error.message}")
            for layer in layers:
                report.skip(layer.name, f"it cannot be retrained: {error.message}")
            return None
        history = training.history
        report.metrics |= {
            "loss_held_before": history.held[0],
            "loss_held_after": history.held[history.best],
            "loss_train_before": before,
            "loss_train_after": training.loss(best, training.train) if history.best else before,
            "epochs": self.epochs,
            "best_epoch": history.best,
            "samples": len(training.train),
            "steps": training.schedule.total,
            **{f"loss_held_{i:03d}": x for i, x in enumerate(history.held)},
            **{f"loss_train_{i + 1:03d}": x for i, x in enumerate(history.train)},
            "step_seconds": (time.perf_counter() - start) / max(1, training.schedule.total),
        }
        if history.best == 0:
            for layer in layers:
                report.skip(layer.name, NOT_LOWER)
            return None
        return training, best

    def _training(
        self,
        graph: LpGraph,
        ctx: PassContext,
        layers: Sequence[TrainedLayer],
        norms: Sequence[TunedNorm],
        checkpoints: Checkpoints | None,
    ) -> Training:
        assert ctx.observe is not None
        assert ctx.calibration is not None
        teacher = compared(graph, self.loss)
        run = ctx.observe(graph, teacher.tensors)
        calls = ctx.calibration.deciding
        outputs = [run(feeds) for feeds in calls]
        columns = [[found[t] for found in outputs] for t in teacher.tensors]
        joined = may_join(graph, calls, outputs, ctx.observe)
        share = (
            np.mean([len(c[0]) for c in zip(*columns, strict=True)]) if joined else 1
        )  # of a call in its samples
        ranges = learnable_ranges(graph, self.ranges)
        fake = fake_quantised(graph, ranges)
        scales = _scales(graph, fake, ranges)
        student = make_student(
            fake,
            layers,
            [*norms, *scales],
            compared(fake, self.loss),
            [float(share) / signal(c) for c in columns],
        )
        if teacher.kind == "labels":
            columns = [label_targets(columns[0], ctx.calibration.deciding_labels, ctx.calibration.source)]
        targets = [dict(zip(student.targets, row, strict=True)) for row in zip(*columns, strict=True)]
        samples = Samples([{**c, **t} for c, t in zip(calls, targets, strict=True)], joined=joined)
        train, held = split_held(samples.count)
        if len(train) == samples.count:
            ctx.warnings.append(
                f"{samples.count} samples to retrain on: none is spared to choose the best epoch"
            )
        total = self.epochs * samples.batch_count(len(train), self.batch)
        runs = LEARNING * self.epochs * samples_of(graph, calls)
        label = labelled(self.label, graph, ctx, runs, total)
        training = Training(
            student,
            _opened(student, ctx),
            layers,
            norms,
            samples,
            train,
            held,
            self.method,
            Schedule(self.rate, total, self.schedule, self.warm_up),
            self.epochs,
            self.batch,
            self.clip,
            ctx.seed,
            scales,
            checkpoints,
            lambda done, of: ctx.progress(label, done, of),
        )
        if self.narrowed is None:
            return training
        return self.narrowed(training, ctx.observe(student.judged, student.compared))


def trainable_norms(graph: LpGraph, *, running: bool = False) -> list[TunedNorm]:
    """Norms of a graph, as its plan has them, whose scale and bias are constants.

    Args:
        graph: float graph and plan.
        running: batch norms follow the statistics of the batches.
    """
    found = []
    for node in with_planned_constants(graph).nodes():
        if node.domain or node.op not in NORMS or len(node.outputs) != 1:
            continue
        parameters = node.inputs[1:3]
        if parameters and all(v is not None and v.is_constant for v in parameters):
            follows = running and node.op == "BatchNormalization"
            found.append(TunedNorm(node, follows and graph.all_constant(node.inputs[3:])))
    return found


def write_norms(graph: LpGraph, norms: Sequence[TunedNorm], values: Arrays, how: str) -> None:
    """Put learned constants of norms into the plan."""
    for norm in norms:
        learned = {norm.roles[role]: array for role, array in norm.feeds(values).items()}
        graph.plan = graph.plan.with_norm(norm.name, NormPlan.of(learned, how))


def _scales(graph: LpGraph, fake: LpGraph, ranges: Mapping[str, float]) -> list[TunedScale]:
    """Scales that nodes of the rounded graph give."""
    plans = {p.tie_group: p for p in graph.plan.activations.values()}
    nodes = {n.name for n in fake.nodes("Identity")}
    found = {group: scale_node(group) for group in ranges}
    return [TunedScale(name, plans[g], ranges[g]) for g, name in found.items() if name in nodes]


def _opened(student: Student, ctx: PassContext) -> Runs:
    assert ctx.observe is not None
    statistics = [t for pair in student.statistics.values() for t in pair]
    train = ctx.observe(student.trained, [student.loss, *student.gradients.values(), *statistics])
    return Runs(train, ctx.observe(student.judged, [student.loss]))
