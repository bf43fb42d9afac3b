"""Layers that read the same weights, chosen for as one: the file holds their codes once if they have one format.

Costs and predicted losses of the layers of a unit add up, so that averages over layers stay what they are; bytes are
those of one copy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.assignment.joint import Joint
from lpcompile.assignment.scored import Assignment, Picks, Scored, ScoredCandidate, ScoredLayer

COUNTED_ONCE = frozenset({"bytes"})


@dataclass(frozen=True)
class Units:
    """What is chosen for.

    Attributes:
        scored: one layer a unit, under the name of the first of its layers.
        members: by unit, its layers, and for each the index of its candidate by that of the unit's.
    """

    scored: Scored
    members: Mapping[str, Mapping[str, Sequence[int]]]

    def picks_of_layers(self, picks: Picks) -> dict[str, int]:
        """What a choice for units is for every layer."""
        return {n: own[picks[unit]] for unit, layers in self.members.items() for n, own in layers.items()}

    def of_layers(self, chosen: Joint) -> Joint:
        """A choice for units as one for layers; sums of costs and losses stay those of the units.

        Where layers share, no other assignment is kept: those are rounded layer by layer, each with codes of its own.
        """

        def each(found: Assignment) -> Assignment:
            return replace(found, picks=self.picks_of_layers(found.picks))

        swapped = {n: label for unit, label in chosen.swapped.items() for n in self.members[unit]}
        apart = all(len(layers) == 1 for layers in self.members.values())
        others = tuple(map(each, chosen.others)) if apart else ()
        return replace(chosen, assignment=each(chosen.assignment), swapped=swapped, others=others)


def units_of(scored: Scored, sharing: Sequence[Sequence[str]]) -> Units:
    """Layers as units; those that have no candidate in common stay apart.

    Args:
        scored: all layers.
        sharing: names of layers that read the same weights, each layer in one group at most.
    """
    by_name = {layer.name: layer for layer in scored.layers}
    groups = {names[0]: [by_name[n] for n in names] for names in sharing}
    later = {n for names in sharing for n in names[1:]}
    layers: list[ScoredLayer] = []
    members: dict[str, Mapping[str, Sequence[int]]] = {}
    projections = dict(scored.projections)
    for layer in scored.layers:
        group = groups.get(layer.name, [layer])
        labels = [c.label for c in layer.candidates if all(_has(other, c.label) for other in group)]
        if len(group) == 1 or not labels:
            apart = group if layer.name not in later else []
            layers += apart
            members |= {x.name: {x.name: range(len(x.candidates))} for x in apart}
            continue
        own = {x.name: [x.index(label) for label in labels] for x in group}
        members[layer.name] = own
        layers.append(_unit(group, own))
        held = [projections.pop(n) for n in own if n in projections]
        if len(held) == len(own):
            terms = [p[:, :, own[n]] for n, p in zip(own, held, strict=True)]
            alive = [t for t in terms if len(t)]
            projections[layer.name] = np.sum(alive, axis=0) if alive else terms[0]
    return Units(Scored(layers, projections), members)


def _has(layer: ScoredLayer, label: str) -> bool:
    return any(c.label == label for c in layer.candidates)


def _unit(group: Sequence[ScoredLayer], own: Mapping[str, Sequence[int]]) -> ScoredLayer:
    rows = zip(*([layer.candidates[i] for i in own[layer.name]] for layer in group), strict=True)
    known = [layer.sensitivity for layer in group if layer.sensitivity is not None]
    return replace(
        group[0],
        weights=sum(layer.weights for layer in group),
        candidates=tuple(map(_together, rows)),
        sensitivity=sum(known) if len(known) == len(group) else None,
    )


def _together(candidates: Sequence[ScoredCandidate]) -> ScoredCandidate:
    first = candidates[0]
    costs = {
        name: value if name in COUNTED_ONCE else sum(c.costs[name] for c in candidates)
        for name, value in first.costs.items()
    }
    error = math.sqrt(sum(c.error**2 for c in candidates))
    return replace(first, loss=sum(c.loss for c in candidates), error=error, costs=costs)
