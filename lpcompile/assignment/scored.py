"""Layers with scored candidates: what the knapsack chooses among, and what a choice means for a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.assignment.problem import Choice, Item
from lpcompile.formats.planned import short_name
from lpcompile.plan import WeightPlan

Picks = Mapping[str, int]  # layer -> index of its candidate


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """One way to store the weights of a layer.

    Attributes:
        weight: the plan.
        loss: predicted loss of the model if this layer alone is stored so.
        error: standard error of `loss` over samples.
        costs: by name, as `assignment.costs` counts them.
    """

    weight: WeightPlan
    loss: float
    error: float
    costs: Mapping[str, float]

    @property
    def label(self) -> str:
        """Unique within a layer."""
        rank = f"/rank{self.weight.rank}" if self.weight.rank else ""
        return f"{self.weight.format}/{self.weight.granularity}/{self.weight.scale_format}{rank}"


@dataclass(frozen=True, slots=True)
class ScoredLayer:
    """A layer and its candidates.

    Attributes:
        name: of its node.
        weights: how many.
        candidates: in no particular order, at least one.
        reason: why the candidates are these, where a rule of the user narrowed them.
        sensitivity: predicted loss of 4-bit integers a channel, the figure that `analyze` prints.
    """

    name: str
    weights: int
    candidates: Sequence[ScoredCandidate]
    reason: str = ""
    sensitivity: float | None = None

    @property
    def item(self) -> Item:
        """As the knapsack takes it."""
        return Item(self.name, tuple(Choice(c.label, c.loss, c.costs) for c in self.candidates))

    def indices(self, formats: frozenset[str]) -> list[int]:
        """Positions of the candidates of these formats; of all where none is."""
        kept = [i for i, c in enumerate(self.candidates) if short_name(c.weight.format) in formats]
        return kept or list(range(len(self.candidates)))

    def index(self, label: str) -> int:
        """Position of a candidate."""
        return next(i for i, c in enumerate(self.candidates) if c.label == label)


@dataclass(frozen=True)
class Scored:
    """All layers that are assigned.

    Attributes:
        layers: with candidates.
        projections: (samples, draws, M) by layer, what candidates do to the outputs together; empty if not known.
    """

    layers: Sequence[ScoredLayer]
    projections: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Assignment:
    """One candidate for every layer.

    Attributes:
        name: of the rule that chose, "exact", "paper-greedy", "nf4 with int8".
        picks: index by layer.
        loss: predicted.
        costs: sums by name.
        lower_bound: no assignment within the bounds has less predicted loss; None where nothing is proven.
    """

    name: str
    picks: Picks
    loss: float
    costs: Mapping[str, float]
    lower_bound: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def gap(self) -> float | None:
        """Share of the predicted loss that is not proven necessary."""
        if self.lower_bound is None:
            return None
        return max(0.0, self.loss - self.lower_bound) / self.loss if self.loss > 0 else 0.0


def with_picks(layers: Sequence[ScoredLayer], picks: Picks, name: str) -> Assignment:
    """The assignment of these picks, added up."""
    chosen = [layer.candidates[picks[layer.name]] for layer in layers]
    costs: dict[str, float] = {}
    for c in chosen:
        for key, value in c.costs.items():
            costs[key] = costs.get(key, 0.0) + value
    return Assignment(name, dict(picks), sum(c.loss for c in chosen), costs)
