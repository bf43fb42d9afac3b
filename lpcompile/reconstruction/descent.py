"""The training of one block: rounding, biases and scales go down on its output error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.errors import GradientError
from lpcompile.formats.arrays import F32
from lpcompile.reconstruction.block_graph import BlockGraph
from lpcompile.reconstruction.block_samples import FLOAT, BlockSamples, KeepShape
from lpcompile.reconstruction.soft_rounding import SoftLayer
from lpcompile.tuning.optimisers import Adam, Schedule
from lpcompile.tuning.parameters import Trained
from lpcompile.tuning.student import parameter_feeds

Arrays = dict[str, F32]
JUDGED = 4  # times that the held-out samples are asked


@dataclass
class Descent:
    """One block.

    Attributes:
        graph: of the block.
        train: gives its loss and gradients.
        judge: gives its loss.
        data: what it is fed with.
        keeps: shapes of what says where rounding is kept, by tensor.
        at: indices of samples to learn from.
        held: indices of samples that decide which state is kept.
        iterations: steps.
        batch: samples a step.
        rate: peak of the learning rate.
        drop: share of the numbers that are not rounded in a step.
        seed: of batches and of what is dropped.
    """

    graph: BlockGraph
    train: RunFeeds
    judge: RunFeeds
    data: BlockSamples
    keeps: Mapping[str, KeepShape]
    at: np.ndarray
    held: np.ndarray
    iterations: int
    batch: int
    rate: float
    drop: float = 0.5
    seed: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trained: list[Trained] = [*self.graph.layers, *self.graph.scales]
        self.values: Arrays = {k: a for t in self.trained for k, a in t.start().items()}

    def run(self, progress: Callable[[int], None] = lambda _done: None) -> Arrays | None:
        """Train; the best state on the held-out samples, or None where that is the one before.

        Args:
            progress: called with the steps done.

        Raises:
            GradientError: a loss or a gradient is not finite.
        """
        rng = np.random.default_rng(self.seed)
        self._harden(hard=True)
        self.losses = [self.loss(self.held)]
        best: Arrays | None = None
        step = min(self.data.samples.step(self.batch), len(self.at))
        unit = self.loss(self.at[: 4 * step]) or 1.0
        method, schedule = Adam(), Schedule(self.rate, self.iterations)
        order: list[int] = []
        every = max(1, self.iterations // JUDGED)
        for i in range(self.iterations):
            if len(order) < step:  # what is left of a round is left out
                order = [int(x) for x in rng.permutation(self.at)]
            at, order = order[:step], order[step:]
            self._harden(hard=False, done=i / self.iterations)
            gradients = self._gradients(np.sort(at), rng, unit)
            method.step(self.values, gradients, schedule.rate(i))
            for layer in self.graph.layers:
                layer.hold(self.values)
            for scale in self.graph.scales:
                scale.hold(self.values)
            progress(i + 1)
            last = i + 1 == self.iterations
            if last or ((i + 1) % every == 0 and i + 1 + every <= self.iterations):
                self._harden(hard=True)
                self.losses.append(self.loss(self.held))
                if self.losses[-1] < min(self.losses[:-1]):
                    best = {k: a.copy() for k, a in self.values.items()}
        return best

    def loss(self, at: np.ndarray) -> float:
        """Mean loss of the state on samples by index, everything rounded."""
        shared = {**parameter_feeds(self.graph.student, self.trained, self.values), **self.data.constants}
        total = count = 0.0
        for calls in self.data.samples.batches(at, self.batch):
            for call in calls:
                units = self.data.samples.units(call)
                keeps = {n: np.ones(self.keeps[t].of(units), np.bool_) for t, n in self.graph.keeps.items()}
                feeds = {k: v for k, v in call.items() if not k.endswith(FLOAT)}
                total += float(self.judge({**shared, **feeds, **keeps})[self.graph.student.loss])
                count += units
        return total / max(1.0, count)

    def _harden(self, *, hard: bool, done: float = 0.0) -> None:
        for layer in self.graph.layers:
            layer.done = done
            if isinstance(layer, SoftLayer):
                layer.hard = hard

    def _gradients(self, at: np.ndarray, rng: np.random.Generator, unit: float) -> Arrays:
        student = self.graph.student
        shared = {**parameter_feeds(student, self.trained, self.values), **self.data.constants}
        summed: dict[tuple[str, str], F32] = {}
        (calls,) = self.data.samples.batches(at, self.batch)
        count = sum(self.data.samples.units(c) for c in calls)
        for call in calls:
            found = self.train({**shared, **self._dropped(call, rng)})
            for key, tensor in student.gradients.items():
                part = np.asarray(found[tensor] / np.float32(count * unit), np.float32)
                summed[key] = np.asarray(summed[key] + part, np.float32) if key in summed else part
        made: Arrays = {}
        for t in self.trained:
            own = {role: g for (name, role), g in summed.items() if name == t.name}
            for role, g in own.items():
                if not np.isfinite(g).all():
                    raise GradientError(f"the gradient of its {role} is not finite", where=t.name)
            made |= t.gradients(own)
        return made

    def _dropped(self, call: Feeds, rng: np.random.Generator) -> Feeds:
        """Feeds in which a share of the inputs is the float model's and a share of the roundings is left out."""
        units = self.data.samples.units(call)
        feeds = {k: v for k, v in call.items() if not k.endswith(FLOAT)}
        if self.drop > 0:
            for name in self.data.mixed:
                chosen = kept(feeds[name].shape, self.drop, rng)
                feeds[name] = np.where(chosen, feeds[name], call[name + FLOAT])
        for tensor, name in self.graph.keeps.items():
            feeds[name] = kept(self.keeps[tensor].of(units), self.drop, rng)
        return feeds


def kept(shape: Sequence[int], drop: float, rng: np.random.Generator) -> np.ndarray:
    """Independent truth values, false with the probability `drop`, to 1/256."""
    size = int(np.prod(shape))
    numbers = np.frombuffer(rng.bytes(size), np.uint8)
    return (numbers >= round(256 * drop)).reshape(shape)
