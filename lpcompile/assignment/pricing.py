"""Candidates with their costs, at any width of the activations they read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lpcompile.assignment.costs import Setting, costs_of
from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat
from lpcompile.assignment.scored import ScoredLayer
from lpcompile.assignment.tie_groups import NARROW_BITS, TieGroup
from lpcompile.assignment.width_choice import ScoredGroup
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import AT_RUN_TIME, Kernel


@dataclass(frozen=True)
class Pricing:
    """What candidates cost in a graph.

    Attributes:
        names: keys of `costs.COSTS`.
        graph: with the planned kernels and activations.
        facts: of its layers.
        where: it will run.
    """

    names: Sequence[str]
    graph: LpGraph
    facts: Mapping[str, LayerFacts]
    where: Setting

    def priced(self, layer: ScoredLayer, bits: int | None = None) -> ScoredLayer:
        """A layer with costs at a width of its input; None: as planned.

        Raises:
            TargetError: a cost that the target does not know for this layer.
        """
        kernel = self.graph.plan.layers[layer.name].kernel
        width = self._planned_bits(layer.name, kernel) if bits is None else bits
        found = [
            replace(
                c,
                costs=costs_of(
                    self.names, self.facts[layer.name], LayerFormat(c.weight, width, kernel), self.where
                ),
            )
            for c in layer.candidates
        ]
        return replace(layer, candidates=tuple(found))

    def group(self, group: TieGroup, loss: float, layers: Mapping[str, ScoredLayer]) -> ScoredGroup:
        """A tie group with the costs of its readers at 4 bits."""
        costs = {
            n: tuple(c.costs for c in self.priced(layers[n], NARROW_BITS).candidates) for n in group.readers
        }
        return ScoredGroup(group, loss, costs)

    def _planned_bits(self, name: str, kernel: Kernel) -> int:
        """Of the input as the layer reads it."""
        if kernel in AT_RUN_TIME:
            return 8
        x = self.graph.node(name).inputs[0]
        plan = None if x is None else self.graph.plan.activations.get(x.name)
        if kernel is Kernel.WEIGHT_ONLY or plan is None:
            return 32
        return plan.code_max.bit_length()
