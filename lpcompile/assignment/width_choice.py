"""Widths of activations and formats of layers chosen together, exactly. [architecture 6].

Costs such as ACE and energy are products of both widths, so a tie group is an item whose choices (8 bits, 4 bits) each
bring the layers that read it, at costs of that width. Layers on floats, or with ranges measured at run time, stand
alone.
What comes out fixes the widths; rules and measurements that weigh weights alone go on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Costs, Item
from lpcompile.assignment.scored import ScoredLayer
from lpcompile.assignment.tie_groups import NARROW, TieGroup
from lpcompile.plan import ActivationPlan

COUNTS_ACTIVATIONS = ("ace", "acev2", "energy-pj")  # bounds that do
PREFIX = "activations of "  # tie groups and layers must not share names


@dataclass(frozen=True)
class ScoredGroup:
    """A tie group and what 4 bits mean for it.

    Attributes:
        group: its tensors, readers and plans.
        loss: predicted, of 4 bits beside 8.
        costs: layer that reads it -> costs of each of its candidates at 4 bits.
    """

    group: TieGroup
    loss: float
    costs: Mapping[str, Sequence[Costs]]

    def item(self, layers: Mapping[str, ScoredLayer]) -> Item:
        """As the knapsack takes it, with the layers that read it (by name) inside."""
        inside = [layers[n] for n in self.group.readers if n in layers]
        wide = Choice(self.group.planned.format, 0.0, {}, tuple(x.item for x in inside))
        narrow = Choice(NARROW, self.loss, {}, tuple(self.at_narrow(x).item for x in inside))
        return Item(PREFIX + self.group.name, (wide, narrow))

    def at_narrow(self, layer: ScoredLayer) -> ScoredLayer:
        """A layer that reads it, with its costs at 4 bits."""
        priced = [
            replace(c, costs=costs) for c, costs in zip(layer.candidates, self.costs[layer.name], strict=True)
        ]
        return replace(layer, candidates=tuple(priced))


@dataclass(frozen=True)
class Widths:
    """The tie groups that take 4 bits.

    Attributes:
        narrow: by name of the group.
        layers: all layers, with costs at the widths that were chosen.
        loss: predicted, of the narrow groups.
        lower_bound: no choice of widths and formats within the bounds has less predicted loss; None where none was
            weighed.
        notes: of the knapsack.
        measured: loss on the deciding calls with activations rounded, by what it is of; empty where not measured.
    """

    narrow: Mapping[str, ScoredGroup]
    layers: Sequence[ScoredLayer]
    loss: float = 0.0
    lower_bound: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def readers(self) -> set[str]:
        """Layers that read narrow activations."""
        return {n for g in self.narrow.values() for n in g.group.readers}

    def plans(self, planned: Mapping[str, ActivationPlan]) -> dict[str, ActivationPlan]:
        """All activations, the narrow groups in 4 bits."""
        return {**planned, **{t: g.group.narrow for g in self.narrow.values() for t in g.group.members}}


def choose_widths(
    layers: Sequence[ScoredLayer], groups: Sequence[ScoredGroup], bounds: Mapping[str, float]
) -> Widths:
    """The widths of the least predicted loss within the bounds, formats of layers chosen with them.

    Args:
        layers: with costs at the planned widths.
        groups: with layers that read them; a layer reads one at most.
        bounds: upper bounds of sums of costs.

    Raises:
        BudgetError: no choice keeps them; names the nearest point.
    """
    if not groups:
        return Widths({}, layers)
    by_name = {layer.name: layer for layer in layers}
    read = {n for g in groups for n in g.group.readers}
    items = [layer.item for layer in layers if layer.name not in read]
    solution = solve([*items, *(g.item(by_name) for g in groups)], bounds)
    narrow = {g.group.name: g for g in groups if solution.picked[PREFIX + g.group.name] == NARROW}
    return replace(fixed(layers, narrow), lower_bound=solution.lower_bound, notes=solution.notes)


def fixed(layers: Sequence[ScoredLayer], narrow: Mapping[str, ScoredGroup]) -> Widths:
    """Widths that were chosen elsewhere."""
    reads = {n: g for g in narrow.values() for n in g.group.readers}
    priced = [reads[x.name].at_narrow(x) if x.name in reads else x for x in layers]
    return Widths(narrow, priced, sum(g.loss for g in narrow.values()))
