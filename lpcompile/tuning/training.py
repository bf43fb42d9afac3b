"""Retraining: latent float weights, rounded in every forward step, that learn the float model's outputs or labels.

Each step: W^ = Q(w) in the planned format -> the student graph gives loss and dL/dW^ -> the estimator makes dL/dw of
it -> the optimiser moves w. After every epoch the loss on held-out samples decides which state is the best so far;
the state before the first step is a candidate, so the result is never worse than the start on them.
[mixed-posit 3, qat]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lpcompile.analysis.calibration import RunFeeds
from lpcompile.analysis.inputs import Feeds
from lpcompile.errors import GradientError, OutputError
from lpcompile.formats.arrays import F32
from lpcompile.tuning.activation_scales import TunedScale
from lpcompile.tuning.batches import Samples
from lpcompile.tuning.checkpoint import Checkpoints
from lpcompile.tuning.layer_arrays import TrainedLayer
from lpcompile.tuning.optimisers import Optimiser, Schedule, clip_norm
from lpcompile.tuning.parameters import Trained, TunedNorm
from lpcompile.tuning.student import Student, parameter_feeds

Arrays = dict[str, F32]
HELD_SHARE = 8  # one sample in eight decides which epoch is kept


@dataclass(frozen=True)
class Runs:
    """The student in the runtime.

    Attributes:
        train: gives the loss, gradients and batch statistics for feeds.
        judge: gives the loss.
    """

    train: RunFeeds
    judge: RunFeeds


@dataclass
class History:
    """Losses of a retraining.

    Attributes:
        held: on held-out samples, before the first epoch and after each.
        train: mean over the steps of each epoch.
        best: index into `held` of the state that is kept.
    """

    held: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    best: int = 0


@dataclass
class Training:
    """One retraining.

    Attributes:
        student: the graph.
        runs: the same, opened.
        layers, norms: what is trained.
        samples: feeds and targets.
        train, held: indices into the samples, disjoint where there are enough.
        method: takes the steps.
        schedule: their learning rates.
        epochs: how often each sample is seen.
        batch: samples a step.
        clip: largest norm of all gradients together; 0: any.
        seed: of the order of samples.
        scales: of activations, trained too.
        checkpoints: where the state goes after each epoch, or None.
        progress: called with (steps done, steps).
    """

    student: Student
    runs: Runs
    layers: Sequence[TrainedLayer]
    norms: Sequence[TunedNorm]
    samples: Samples
    train: np.ndarray
    held: np.ndarray
    method: Optimiser
    schedule: Schedule
    epochs: int
    batch: int
    clip: float = 0.0
    seed: int = 0
    scales: Sequence[TunedScale] = ()
    checkpoints: Checkpoints | None = None
    progress: Callable[[int, int], None] = lambda _done, _total: None

    def __post_init__(self) -> None:
        self.trained: list[Trained] = [*self.layers, *self.norms, *self.scales]
        self.values: Arrays = {k: a for t in self.trained for k, a in t.start().items()}
        self.best: Arrays = {}
        self.history = History()

    def run(self, *, resume: bool = False) -> Arrays:
        """Train.

        Args:
            resume: go on from the last checkpoint, where there is one.

        Returns:
            The best arrays, by "name/role".

        Raises:
            GradientError: a loss or a gradient is not finite; names the layer. The last checkpoint stays.
            InputError: the checkpoint is of another model or other options.
            OutputError: there are checkpoints of another run, or they cannot be written.
        """
        first = self._begin(resume)
        for epoch in range(first, self.epochs):
            self.history.train.append(self._epoch(epoch))
            self._judge()
            if self.checkpoints is not None:
                self.checkpoints.save(epoch + 1, self._state())
        return self.best

    def loss(self, values: Mapping[str, F32], at: Sequence[int] | np.ndarray) -> float:
        """Mean loss of arrays on samples by index."""
        shared = parameter_feeds(self.student, self.trained, values)
        total = count = 0.0
        for calls in self.samples.batches(at, self.batch):
            for feeds in calls:
                total += float(self.runs.judge({**shared, **feeds})[self.student.loss])
                count += self.samples.units(feeds)
        return total / max(1, count)

    def _begin(self, resume: bool) -> int:
        """The first epoch to run."""
        if self.checkpoints is not None:
            if not resume:
                self.checkpoints.refuse_existing()
            elif (found := self.checkpoints.latest()) is not None:
                self._restore(found[1])
                return found[0]
        elif resume:
            raise OutputError(
                "there is nothing to resume from", hint="name the folder with --checkpoint FOLDER"
            )
        self._judge()
        return 0

    def _judge(self) -> None:
        found = self.loss(self.values, self.held)
        self.history.held.append(found)
        if len(self.history.held) == 1 and not math.isfinite(found):
            raise GradientError(
                "the loss is not finite before the first step",
                hint="check the samples, or the rounded model with 'lpcompile run'",
            )
        if len(self.history.held) == 1 or found < self.history.held[self.history.best]:
            self.history.best = len(self.history.held) - 1
            self.best = {k: a.copy() for k, a in self.values.items()}

    def _epoch(self, epoch: int) -> float:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.train)
        per_epoch = self.samples.batch_count(len(self.train), self.batch)
        losses = []
        for i, calls in enumerate(self.samples.batches(order, self.batch)):
            done = epoch * per_epoch + i
            losses.append(self._step(calls, self.schedule.rate(done)))
            self.progress(done + 1, self.epochs * per_epoch)
        return float(np.mean(losses))

    def gradient_norm(self, sample: int) -> float:
        """Norm of the gradients of all that is trained, in its units, on one sample, before or between steps."""
        (calls,) = self.samples.batches([sample], 1)
        _, gradients = self._gradients(calls, follow=False)
        return math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))

    def _step(self, calls: Sequence[Feeds], rate: float) -> float:
        total, gradients = self._gradients(calls, follow=True)
        clip_norm(gradients, self.clip)
        self.method.step(self.values, gradients, rate)
        for layer in self.layers:
            layer.hold(self.values)
        for scale in self.scales:
            scale.hold(self.values)
        return total

    def _gradients(self, calls: Sequence[Feeds], *, follow: bool) -> tuple[float, Arrays]:
        """Mean loss and gradients of a batch; whether norms follow its statistics."""
        shared = parameter_feeds(self.student, self.trained, self.values)
        total, count = 0.0, sum(self.samples.units(feeds) for feeds in calls)
        summed: dict[tuple[str, str], F32] = {}
        for feeds in calls:
            found = self.runs.train({**shared, **feeds})
            total += float(found[self.student.loss]) / count
            for key, tensor in self.student.gradients.items():
                part = np.asarray(found[tensor] / np.float32(count), np.float32)
                summed[key] = np.asarray(summed[key] + part, np.float32) if key in summed else part
            if follow:
                self._follow(found)
        gradients: Arrays = {}
        for t in self.trained:
            own = {role: g for (name, role), g in summed.items() if name == t.name}
            for role, g in own.items():
                if not np.isfinite(g).all():
                    raise GradientError(
                        f"the gradient of its {role} is not finite (loss {total:g})",
                        where=t.name,
                        hint="a smaller learning-rate may help; the last checkpoint is untouched",
                    )
            gradients |= t.gradients(own)
        if not math.isfinite(total):
            raise GradientError(
                "the loss is not finite",
                hint="a smaller learning-rate may help; the last checkpoint is untouched",
            )
        return total, gradients

    def _follow(self, found: Mapping[str, F32]) -> None:
        for norm in self.norms:
            if norm.name in self.student.statistics:
                mean, variance = self.student.statistics[norm.name]
                norm.follow(self.values, found[mean], found[variance])

    def _state(self) -> Arrays:
        history = {
            "held": np.asarray(self.history.held, np.float64),
            "train": np.asarray(self.history.train, np.float64),
            "best": np.asarray(self.history.best),
        }
        groups = {
            "values": self.values,
            "best": self.best,
            "method": self.method.state(),
            "history": history,
        }
        return {f"{group}|{k}": a for group, arrays in groups.items() for k, a in arrays.items()}

    def _restore(self, state: Arrays) -> None:
        def group(name: str) -> Arrays:
            return {k.partition("|")[2]: a for k, a in state.items() if k.startswith(f"{name}|")}

        self.values, self.best = group("values"), group("best")
        self.method.restore(group("method"))
        history = group("history")
        self.history = History(
            [float(x) for x in history["held"]],
            [float(x) for x in history["train"]],
            int(history["best"]),
        )


def split_held(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to hold out, spread evenly; with fewer than four samples both are all of them."""
    everything = np.arange(count)
    if count < 4:
        return everything, everything
    held = np.linspace(HELD_SHARE / 2, count - 1, max(1, count // HELD_SHARE)).astype(int)
    return np.setdiff1d(everything, held), np.unique(held)
