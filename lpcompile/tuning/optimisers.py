"""Gradient descent on named float32 arrays: SGD with momentum, Adam, learning rates over time, clipping.

SGD:  g' = g + wd x;  v = mu v + g';  x -= lr (g' + mu v) with Nesterov, else lr v.           [sutskever2013]
Adam: g' = g + wd x;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2;
      x -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).                                [kingma2015]
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.formats.arrays import F32

Arrays = dict[str, F32]
OPTIMISERS = ("adam", "sgd", "nesterov")
SCHEDULES = ("cosine", "constant")


@dataclass
class Optimiser(ABC):
    """Steps of one method; what it remembers of each array is its state.

    Attributes:
        weight_decay: pulls arrays named in `decayed` towards zero.
        decayed: names of arrays.
        steps: taken so far.
    """

    weight_decay: float = 0.0
    decayed: frozenset[str] = frozenset()
    steps: int = 0
    memory: dict[str, Arrays] = field(default_factory=dict)
    kept: ClassVar[tuple[str, ...]] = ()

    def step(self, values: Mapping[str, F32], gradients: Mapping[str, F32], rate: float) -> None:
        """One step, in place.

        Args:
            values: float32 arrays by name.
            gradients: of the same shapes, for some of the names.
            rate: learning rate of this step.
        """
        self.steps += 1
        for name, gradient in gradients.items():
            value = values[name]
            if self.weight_decay and name in self.decayed:
                gradient = gradient + np.float32(self.weight_decay) * value
            memory = [self.memory.setdefault(k, {}).setdefault(name, np.zeros_like(value)) for k in self.kept]
            self._update(value, gradient, memory, rate)

    @abstractmethod
    def _update(self, value: F32, gradient: F32, memory: list[F32], rate: float) -> None:
        """Change one array and what is remembered of it, in place."""

    def state(self) -> Arrays:
        """What must be kept to go on later, by "memory/array"."""
        arrays = {f"{k}/{name}": a for k, found in self.memory.items() for name, a in found.items()}
        return {**arrays, "steps": np.asarray(self.steps, np.float32)}

    def restore(self, state: Mapping[str, F32]) -> None:
        """Go on from a state."""
        self.steps, self.memory = int(state["steps"]), {}
        for key, array in state.items():
            memory, slash, name = key.partition("/")
            if slash:
                self.memory.setdefault(memory, {})[name] = np.array(array, np.float32)


@dataclass
class Sgd(Optimiser):
    """Stochastic gradient descent with momentum, Nesterov's or the plain one."""

    kept: ClassVar[tuple[str, ...]] = ("velocity",)
    momentum: float = 0.9
    nesterov: bool = False

    def _update(self, value: F32, gradient: F32, memory: list[F32], rate: float) -> None:
        (velocity,) = memory
        velocity *= np.float32(self.momentum)
        velocity += gradient
        move = gradient + np.float32(self.momentum) * velocity if self.nesterov else velocity
        value -= np.float32(rate) * move


@dataclass
class Adam(Optimiser):
    """Adam with bias correction."""

    kept: ClassVar[tuple[str, ...]] = ("mean", "square")
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def _update(self, value: F32, gradient: F32, memory: list[F32], rate: float) -> None:
        mean, square = memory
        mean += np.float32(1 - self.beta1) * (gradient - mean)
        square *= np.float32(self.beta2)
        square += np.float32(1 - self.beta2) * gradient * gradient
        unbiased = math.sqrt(1 - self.beta2**self.steps)
        spread = np.sqrt(square) / np.float32(unbiased) + np.float32(self.epsilon)
        value -= np.float32(rate / (1 - self.beta1**self.steps)) * mean / spread


def optimiser(
    name: str, *, weight_decay: float = 0.0, momentum: float = 0.9, decayed: frozenset[str] = frozenset()
) -> Optimiser:
    """An optimiser by its name, one of OPTIMISERS.

    Raises:
        ValueError: there is none of that name.
    """
    option_checks.one_of("optimiser", name, OPTIMISERS)
    if name == "adam":
        return Adam(weight_decay, decayed)
    return Sgd(weight_decay, decayed, momentum=momentum, nesterov=name == "nesterov")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate of each step.

    Attributes:
        peak: the largest rate.
        total: steps in all.
        kind: "cosine" (to zero, half a cosine) or "constant".
        warm_up: share of the steps in which the rate rises from zero.
    """

    peak: float
    total: int
    kind: str = "cosine"
    warm_up: float = 0.05

    def __post_init__(self) -> None:
        option_checks.one_of("schedule", self.kind, SCHEDULES)
        option_checks.share("warm-up", self.warm_up)

    def rate(self, step: int) -> float:
        """Of step 0, 1, ...: the k-th of w steps of warm-up has peak * k / w."""
        rising = round(self.warm_up * self.total)
        if step < rising:
            return self.peak * (step + 1) / rising
        if self.kind == "constant":
            return self.peak
        done = (step - rising) / max(1, self.total - rising)
        return self.peak * 0.5 * (1 + math.cos(math.pi * done))


def clip_norm(gradients: Arrays, most: float) -> float:
    """Scale gradients down, in place, so that their joint Euclidean norm is at most `most`; 0: leave them.

    Returns:
        The norm before.
    """
    norm = math.sqrt(sum(float(np.vdot(g.astype(np.float64), g)) for g in gradients.values()))
    if 0 < most < norm:
        for g in gradients.values():
            g *= np.float32(most / norm)
    return norm
