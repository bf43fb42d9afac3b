"""A multiple-choice knapsack: exactly one choice of every item, least loss within bounds. Nothing here knows graphs.

An activation tie group and the layers that read it are one item with members: each choice of the group (a format of
the activation) brings its own choices of the layers, because costs such as ACE are products of both widths.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lpcompile.errors import PassError

Costs = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to treat an item.

    Attributes:
        label: unique within its item.
        loss: predicted, additive over items; smaller is better.
        costs: by name of the bounded quantity ("bits", "bytes", "ace", "acev2", "energy-pj", "posit", ...).
        members: items that are decided within this choice.
    """

    label: str
    loss: float
    costs: Costs
    members: Sequence["Item"] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """Something of which exactly one choice is taken."""

    name: str
    choices: Sequence[Choice]


@dataclass(frozen=True, slots=True)
class Solution:
    """What was taken.

    Attributes:
        picked: label by item name, members of taken choices included.
        loss: the sum.
        costs: the sums by name.
        lower_bound: no selection within the bounds has less loss.
        method: "exact", or the name of the rule.
    """

    picked: Mapping[str, str]
    loss: float
    costs: Costs
    lower_bound: float
    method: str = "exact"
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def gap(self) -> float:
        """How much of the loss is not proven necessary, relative; 0 for an exact solution."""
        return max(0.0, self.loss - self.lower_bound) / self.loss if self.loss > 0 else 0.0


def every_item(items: Sequence[Item]) -> Iterator[Item]:
    """The items and all their members."""
    for item in items:
        yield item
        for choice in item.choices:
            yield from every_item(choice.members)


def check_items(items: Sequence[Item]) -> None:
    """Raise PassError for an item without choices and for losses and costs that are negative or not finite."""
    for item in every_item(items):
        if not item.choices:
            raise PassError(f"{item.name} has no choice")
        for choice in item.choices:
            for name, value in (("loss", choice.loss), *choice.costs.items()):
                if not 0 <= value < math.inf:
                    raise PassError(f"{item.name}: {name} of {choice.label} is {value}")


def sums(choices: Iterable[Choice]) -> tuple[float, dict[str, float]]:
    """Loss and costs of choices, without regard to their order."""
    taken = list(choices)
    names = dict.fromkeys(name for c in taken for name in c.costs)
    return math.fsum(c.loss for c in taken), {n: math.fsum(c.costs.get(n, 0.0) for c in taken) for n in names}
