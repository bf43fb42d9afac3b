"""Regret of assignments against the exhaustive optimum, on networks small enough to measure every assignment.

The loss is the noise over the signal of the outputs (logits where they end in a softmax) on the deciding calls, with
rounded weights and float activations: what assign-formats measures by. Regret is the loss over the least loss of all
assignments within the budget, less one.

`posits`: each layer fixp4 or posit4, under a share of posit weights. `widths`: fixp4, nf4 or int8 under an average
width, in the largest layers; others are int8, so that all assignments can be tried. One candidate a format, the
cheapest.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lpcompile.analysis.gradients import Samples
from lpcompile.assignment.assign import exact, greedy, singles
from lpcompile.assignment.costs import additive_bounds
from lpcompile.assignment.greedy import Rule
from lpcompile.assignment.interactions import refine
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.scored import Picks, Scored, ScoredLayer, with_picks
from lpcompile.errors import BudgetError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.passes.measured_assignment import AssignmentLoss, assignment_loss
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Cell, Results
from tests.support import Array

ENTRIES = ("tiny_resnet8_cifar10", "tiny_dscnn_kws")
SETS: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "posits": ("fixp4+posit4", "posit-fraction", (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 1.0)),
    "widths": ("fixp4+int8+nf4", "avg-bits", (4.5, 4.75, 5.0, 5.5, 6.0, 7.0)),
}
LARGEST = 5  # layers whose width is free
SAMPLES = 48  # of the calibration set
RULES: tuple[Rule, ...] = ("paper-greedy", "ratio-greedy")
CHOICES = ("measured", "together", "exact", *RULES, "best single format")
HEADER = (
    "entry",
    "set",
    "budget",
    "bound",
    "assignments within it",
    "least loss",
    "median loss",
    *(f"regret {c} %" for c in CHOICES),
    "layers unlike the optimum",
    "measurements",
)


def run(bench: Bench, seeds: int | None) -> Results:
    """Both networks, both sets, several budgets."""
    count = seeds or 1
    made = Results(
        "assignment_regret",
        "Regret of assignments against the best of all, measured one by one",
        ("seed", *HEADER),
        seeds=tuple(range(count)),
    )
    for entry in bench.names(ENTRIES, ENTRIES[1:]):
        for seed in made.seeds:
            for kind in SETS if not bench.quick else ("widths",):
                made.rows += [(seed, *row) for row in _rows(bench, entry, kind, seed)]
    at = {h: i for i, h in enumerate(made.header)}
    for choice in CHOICES:
        found = np.array([r[at[f"regret {choice} %"]] for r in made.rows], float)
        good = int((found <= 5).sum())
        made.notes.append(
            f"{choice}: mean regret {np.nanmean(found):.2f} %, largest {np.nanmax(found):.2f} %, at most 5 % in {good} "
            f"of {len(found)}"
        )
    made.notes += [
        "measured: what assign-formats takes, with the doubtful choices tried; together: cross terms, not measured;",
        "exact: knapsack by predicted losses; greedy rules: from fixp4 to posit4, or to int8; best single format: that",
        "format with int8 where it pays, the best by measuring. All on calibration samples that decide",
    ]
    made.chart(list(_series(made)), x="case: entry, set and bound, in order", y="regret, %, cut at 100")
    return made


@dataclass
class Enumerated:
    """A network with every assignment measured.

    Attributes:
        network: with its candidates held to `layers`.
        layers: one candidate a format.
        scored: the same with projections.
        loss: measures picks.
        losses: (A,) of all assignments.
        costs: by name, (A,).
        picks: (A, layers).
    """

    network: Network
    options: Mapping[str, Any]
    layers: Sequence[ScoredLayer]
    scored: Scored
    loss: AssignmentLoss
    losses: Array
    costs: dict[str, Array]
    picks: Array


def enumerated(bench: Bench, entry: str, kind: str, seed: int) -> Enumerated:
    """Score, keep one candidate a format, and measure all assignments."""
    formats, budget, bounds = SETS[kind]
    network = Network(bench, entry, seed=seed, samples=SAMPLES)
    if kind == "widths":
        facts = [layer_facts(n) for n in network.graph.layers()]
        small = sorted(facts, key=lambda f: -f.weights)[LARGEST:]
        network.context.layer_formats = tuple(f"{_literal(f.name)}=int8" for f in small)
    options = {"formats": formats, "posit-fraction": 0.0, budget: max(bounds), "method": "exact"}
    scored = _one_a_format(network.scored(options))
    network.context.scored[network.key(options)] = scored
    context = network.context
    assign = network.assign
    assert isinstance(assign, AssignFormats)
    assert context.observe is not None
    assert context.open_patched is not None
    assert context.calibration is not None
    names = [layer.name for layer in scored.layers]
    samples = Samples.of(network.graph, names, context.observe, context.calibration.deciding)
    loss = assignment_loss(
        network.graph,
        scored.layers,
        context.statistics,
        context.observe,
        samples.calls,
        context.open_patched,
        loss=assign.loss,
        per_sample=samples.per_sample,
    )
    picks = np.array(list(itertools.product(*(range(len(x.candidates)) for x in scored.layers))), np.int64)
    losses = np.array([loss.of(_named(names, p)).mean() for p in picks])
    costs = {
        name: np.sum(
            [
                np.array([c.costs[name] for c in layer.candidates])[picks[:, i]]
                for i, layer in enumerate(scored.layers)
            ],
            axis=0,
        )
        for name in ("bits", "posit")
    }
    return Enumerated(network, options, scored.layers, scored, loss, losses, costs, picks)


def _rows(bench: Bench, entry: str, kind: str, seed: int) -> Iterator[tuple[Cell, ...]]:
    found = enumerated(bench, entry, kind, seed)
    network, layers = found.network, found.layers
    names = [layer.name for layer in layers]
    facts = [layer_facts(n) for n in network.graph.layers()]
    _, budget, values = SETS[kind]
    for value in values:
        bounds = additive_bounds({budget: value}, facts)
        within = np.all([found.costs[k] <= b * (1 + 1e-12) for k, b in bounds.items()], axis=0)
        if not within.any():
            continue
        best = int(np.argmin(np.where(within, found.losses, np.inf)))
        least = float(found.losses[best])
        made = network.assigned({**found.options, budget: value})
        final = {
            layer.name: layer.index(_label(made.graph.plan.layers[layer.name].weight)) for layer in layers
        }
        first = exact(layers, bounds)
        chosen: dict[str, Picks] = {
            "measured": final,
            "together": refine(layers, found.scored.projections, first.picks, bounds).picks,
            "exact": first.picks,
        }
        for rule in RULES:
            try:
                upgrade = "posit4" if kind == "posits" else "int8"
                chosen[rule] = greedy(layers, bounds, rule, base="fixp4", upgrade=upgrade).picks
            except BudgetError:
                continue
        regrets = {c: _regret(found, p, least, bounds) for c, p in chosen.items()}
        single = [_regret(found, a.picks, least, bounds) for a in singles(found.scored, bounds)]
        regrets["best single format"] = min(single, default=float("nan"))
        unlike = sum(final[n] != int(p) for n, p in zip(names, found.picks[best], strict=True))
        yield (
            entry,
            kind,
            budget,
            value,
            int(within.sum()),
            least,
            float(np.median(found.losses[within])),
            *(regrets.get(c, float("nan")) for c in CHOICES),
            unlike,
            int(made.report.metrics["measurements"]),
        )


def _regret(found: Enumerated, picks: Picks, least: float, bounds: Mapping[str, float]) -> float:
    """In per cent."""
    costs = with_picks(found.layers, picks, "").costs
    assert all(costs[k] <= b * (1 + 1e-9) for k, b in bounds.items())
    return 100 * (float(found.loss.of(picks).mean()) / least - 1)


def _one_a_format(scored: Scored) -> Scored:
    """The cheapest candidate of each format, projections with it."""
    layers, projections = [], {}
    for layer in scored.layers:
        kept: dict[str, int] = {}
        for i, c in sorted(enumerate(layer.candidates), key=lambda x: (x[1].costs["bits"], x[1].loss)):
            kept.setdefault(c.weight.format, i)
        at = sorted(kept.values())
        layers.append(replace(layer, candidates=tuple(layer.candidates[i] for i in at)))
        if layer.name in scored.projections:
            projections[layer.name] = scored.projections[layer.name][:, :, at]
    return Scored(layers, projections)


def _named(names: Sequence[str], picks: Array) -> Picks:
    return dict(zip(names, picks.tolist(), strict=True))


def _label(weight: Any) -> str:
    return f"{weight.format}/{weight.granularity}/{weight.scale_format}"


def _literal(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_/" else "." for c in name)


def _series(made: Results) -> Iterator[Series]:
    at = {h: i for i, h in enumerate(made.header)}
    for choice in CHOICES:
        y = [min(100.0, float(str(r[at[f"regret {choice} %"]]))) for r in made.rows]
        yield Series(choice, list(range(1, len(y) + 1)), y)
