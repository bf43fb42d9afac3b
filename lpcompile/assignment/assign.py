"""Assignments by rule: the exact knapsack, the greedy rules, and each single format with int8 where it pays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lpcompile.assignment.greedy import Rule, assign
from lpcompile.assignment.interactions import refine
from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Choice, Item
from lpcompile.assignment.scored import Assignment, Scored, ScoredCandidate, ScoredLayer, with_picks
from lpcompile.errors import BudgetError
from lpcompile.formats.planned import short_name

WIDE = "int8"
RIVALS = 4  # single formats that are worth measuring


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


def single(
    scored: Scored, bounds: Mapping[str, float], fmt: str, *, together: bool = False
) -> Assignment | None:
    """One format beside int8: the least predicted loss; None where that keeps no bound.

    Args:
        scored: all layers.
        bounds: upper bounds of sums of costs.
        fmt: the format; layers that it is no candidate of keep all of theirs.
        together: refined by what its candidates lose together.
    """
    kept = {layer.name: layer.indices(frozenset({fmt, WIDE})) for layer in scored.layers}
    narrowed = [
        replace(layer, candidates=[layer.candidates[i] for i in kept[layer.name]]) for layer in scored.layers
    ]
    try:
        picks = exact(narrowed, bounds).picks
    except BudgetError:
        return None
    if together:
        projections = {n: p[:, :, kept[n]] for n, p in scored.projections.items()}
        picks = refine(narrowed, projections, picks, bounds).picks
    name = f"{fmt} with {WIDE}{', together' if together else ''}"
    return with_picks(scored.layers, {n: kept[n][i] for n, i in picks.items()}, name)


def singles(scored: Scored, bounds: Mapping[str, float]) -> list[Assignment]:
    """Single formats with int8, the best predicted first: RIVALS of them, their cross terms looked at where known."""
    formats = dict.fromkeys(short_name(c.weight.format) for layer in scored.layers for c in layer.candidates)
    found = [(a, f) for f in formats if f != WIDE and (a := single(scored, bounds, f)) is not None]
    found.sort(key=lambda pair: (pair[0].loss, pair[1]))
    refined = [
        single(scored, bounds, f, together=True) if scored.projections else a for a, f in found[:RIVALS]
    ]
    return [a for a in refined if a is not None]
