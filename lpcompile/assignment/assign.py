"""Assignments by rule: the exact knapsack, the greedy rules, and each single format with int8 where it pays."""

from collections.abc import Mapping, Sequence

from lpcompile.assignment.greedy import Rule, assign
from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Item
from lpcompile.assignment.scored import Assignment, ScoredCandidate, ScoredLayer, with_picks
from lpcompile.errors import BudgetError
from lpcompile.formats.planned import short_name

WIDE = "int8"


def exact(layers: Sequence[ScoredLayer], bounds: Mapping[str, float], name: str = "exact") -> Assignment:
    """The least predicted loss within the bounds.

    Raises:
        BudgetError: no assignment keeps them; names the nearest point.
    """
    solution = solve([layer.item for layer in layers], bounds)
    picks = {layer.name: layer.index(solution.picked[layer.name]) for layer in layers}
    found = with_picks(layers, picks, name)
    return Assignment(name, picks, found.loss, found.costs, solution.lower_bound, solution.notes)


def greedy(
    layers: Sequence[ScoredLayer], bounds: Mapping[str, float], rule: Rule, *, base: str, upgrade: str
) -> Assignment:
    """Layers in the order of what they gain from one format over another, as the bounds allow. [mixed-posit 2.8].

    Args:
        layers: each takes the cheapest of its candidates in a format, the one that loses least among these.
        bounds: upper bounds of sums of costs.
        rule: "paper-greedy" or "ratio-greedy".
        base: format to start from.
        upgrade: format to go to.

    Raises:
        BudgetError: the base alone exceeds a bound.
    """
    items, labels = [], {}
    for layer in layers:
        kept = {fmt: c for fmt in (base, upgrade) if (c := _cheapest(layer, fmt)) is not None}
        kept = kept or {base: min(layer.candidates, key=lambda c: (c.costs.get("bits", 0.0), c.loss))}
        labels[layer.name] = {fmt: c.label for fmt, c in kept.items()}
        items.append(Item(layer.name, tuple(Choice(f, c.loss, c.costs) for f, c in kept.items())))
    solution = assign(items, bounds, rule, base=base, upgrade=upgrade)
    picks = {layer.name: layer.index(labels[layer.name][solution.picked[layer.name]]) for layer in layers}
    return with_picks(layers, picks, rule)


def _cheapest(layer: ScoredLayer, fmt: str) -> ScoredCandidate | None:
    own = [c for c in layer.candidates if short_name(c.weight.format) == fmt]
    return min(own, key=lambda c: (c.costs.get("bits", 0.0), c.loss), default=None)


def single(layers: Sequence[ScoredLayer], bounds: Mapping[str, float], fmt: str) -> Assignment | None:
    """The least predicted loss with one format beside int8; None where that keeps no bound or changes no layer."""
    narrowed = [layer.only(frozenset({fmt, WIDE})) for layer in layers]
    try:
        found = exact(narrowed, bounds)
    except BudgetError:
        return None
    picks = {
        layer.name: layer.index(some.candidates[found.picks[layer.name]].label)
        for layer, some in zip(layers, narrowed, strict=True)
    }
    return with_picks(layers, picks, f"{fmt} with {WIDE}")


def singles(layers: Sequence[ScoredLayer], bounds: Mapping[str, float]) -> list[Assignment]:
    """Each format that is a candidate somewhere, by itself with int8; the best predicted first."""
    formats = dict.fromkeys(short_name(c.weight.format) for layer in layers for c in layer.candidates)
    found = [single(layers, bounds, f) for f in formats if f != WIDE]
    return sorted((a for a in found if a is not None), key=lambda a: (a.loss, a.name))
