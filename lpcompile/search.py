"""Outer loops for bounds that only the compiled model can tell; candidates are scored once. [architecture 6].

Fewest bits: each evaluation assigns formats at another average width, rounds, emits and measures on the deciding
calls. What was found is confirmed on the judging calls: where it misses a bound there, the bound is asked for with that
much to spare.

Energy: formats are assigned by estimates of single layers, the bound is on the whole program as simulated. Where that
misses it, the estimate's bound is tightened, first by the ratio, then along the line through what was found so far.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lpcompile.analysis.calibration import Feeds
from lpcompile.assignment.bisection import Bisection, fewest
from lpcompile.assignment.budget import AT_LEAST, margin
from lpcompile.errors import BudgetError
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.prepared import Prepared
from lpcompile.records import PassReport
from lpcompile.yardstick import Yardstick

LOW, HIGH = 2.0, 33.0  # bits a weight: below every 4-bit format, above floats
RESOLUTION = 0.02
MOST_EVALUATIONS = 12
CONFIRMATIONS = 3
UNITS = {
    "sqnr-db": 1.0,
    "agreement": 0.01,
}  # margins are compared in these; of metric-drop in the bound itself

TIGHTENINGS = 3
ENERGY = "energy-pj"

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Searched:
    """What the loop found.

    Attributes:
        passes: the tail of the pipeline at the budget that was found.
        document: for the report: bounds, every evaluation, notes.
    """

    passes: tuple[Pass, ...]
    document: dict[str, Any] = field(default_factory=dict)


def search(
    prepared: Prepared, tail: Sequence[Pass], yardstick: Yardstick, bounds: Mapping[str, float]
) -> Searched:
    """The tail of a pipeline at the least average width whose result meets measured bounds.

    Args:
        prepared: a compilation after the passes before `assign-formats`.
        tail: the passes from there on.
        yardstick: what is measured.
        bounds: by the names of `budget.MEASURED`.

    Raises:
        BudgetError: the widest assignment misses a bound too; names the nearest point.
    """
    loop = _Loop(prepared, tuple(tail), yardstick)
    asked = dict(bounds)
    calibrated = prepared.calibration is not None and prepared.deciding
    for _ in range(CONFIRMATIONS):
        found = loop.fewest(asked)
        if not calibrated:
            break
        judged = loop.measure(found.result, prepared.calls, prepared.expected)
        missed = {k: m for k, b in bounds.items() if (m := margin(k, _known(k, judged), b)) < 0}
        if not missed:
            break
        for name, by in missed.items():
            asked[name] += -by if name in AT_LEAST else by
    document = {
        "bounds": dict(bounds),
        "avg_bits": found.result,
        "evaluations": [{"avg_bits": b, **v} for b, v in sorted(loop.values.items())],
        "notes": list(found.notes),
    }
    return Searched(loop.passes(found.result), document)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a built program takes.

    Attributes:
        energy_pj: of a simulated sample.
        resident: whether the weights stay on the machine between calls.
    """

    energy_pj: float
    resident: bool


def keep_energy(
    prepared: Prepared, tail: Sequence[Pass], bound: float, simulate: Callable[[LpGraph], Simulated | None]
) -> Searched:
    """The tail of a pipeline whose simulated program keeps a bound on its energy.

    Args:
        prepared: a compilation after the passes before `assign-formats`; its context learns whether weights stay.
        tail: the passes from there on, with the bound on the estimate.
        bound: pJ a sample.
        simulate: builds and runs the program of a graph and its finished plan; None where that cannot be done.

    Raises:
        BudgetError: no tightened estimate keeps the bound; names the nearest point.
    """
    loop = _Loop(prepared, tuple(tail), None)
    tried: list[tuple[float, float]] = []  # estimate, simulated
    asked, context = bound, prepared.context
    for _ in range(1 + TIGHTENINGS):
        try:
            graph, estimate = loop.assigned(asked)
        except BudgetError as error:
            least = error.nearest.get(ENERGY)
            if not tried or least is None:  # nothing was wrong with the estimate
                raise
            asked = least * (1 + 1e-9)
            if any(estimate <= asked for estimate, _ in tried):
                break
            graph, estimate = loop.assigned(asked)
        found = simulate(graph)
        if found is None:
            return Searched(tuple(tail))
        tried.append((estimate, found.energy_pj))
        if found.energy_pj <= bound:
            shown = [{"estimated_pj": a, "simulated_pj": b} for a, b in tried]
            return Searched(
                loop.with_energy(asked), {"energy_pj": {"bound": bound, "assigned": asked, "tried": shown}}
            )
        if context.resident and not found.resident:
            context.resident, asked = False, bound
            tried.clear()
            tried.append((math.inf, found.energy_pj))
        else:
            asked = tightened(tried, bound)
    best = min(energy for _, energy in tried)
    raise BudgetError(
        f"{ENERGY} cannot be brought to {bound:g}: the least that was simulated is {best:.6g}",
        hint=f"ask for {ENERGY} of {best:.6g} or more, or allow smaller formats",
        nearest={ENERGY: best},
    )


def tightened(tried: Sequence[tuple[float, float]], bound: float) -> float:
    """The next bound on the estimate: on the line through the last two points, else in proportion.

    Args:
        tried: estimates and what was simulated, in order, all above the bound.
        bound: for what is simulated.
    """
    estimate, energy = tried[-1]
    if len(tried) > 1 and math.isfinite(tried[-2][0]):
        before, energy_before = tried[-2]
        slope = (energy - energy_before) / (estimate - before) if estimate != before else 0.0
        if slope > 0:
            return max(1e-6 * bound, min(estimate - (energy - bound) / slope, estimate * (1 - 1e-6)))
    return estimate * bound / energy


class _Loop:
    def __init__(self, prepared: Prepared, tail: tuple[Pass, ...], yardstick: Yardstick | None) -> None:
        self.prepared, self.tail, self.yardstick = prepared, tail, yardstick
        self.at = next(i for i, p in enumerate(tail) if isinstance(p, AssignFormats))
        self.values: dict[float, Values] = {}

    def passes(self, bits: float) -> tuple[Pass, ...]:
        return self._with(avg_bits=round(bits, 6), nearest=False)

    def with_energy(self, bound: float) -> tuple[Pass, ...]:
        return self._with(energy_pj=bound)

    def _with(self, **bounds: Any) -> tuple[Pass, ...]:
        assign = self.tail[self.at]
        assert isinstance(assign, AssignFormats)
        return (*self.tail[: self.at], replace(assign, **bounds), *self.tail[self.at + 1 :])

    def assigned(self, bound: float) -> tuple[LpGraph, float]:
        """The graph with its finished plan at a bound on the estimated energy, and that energy."""
        graph, reports = self._run(self.with_energy(bound))
        return graph, next(r.metrics[ENERGY] for r in reports if ENERGY in r.metrics)

    def fewest(self, bounds: Mapping[str, float]) -> Bisection:
        assign = self.tail[self.at]
        assert isinstance(assign, AssignFormats)

        def evaluate(bits: float) -> float:
            try:
                values = self._deciding(bits)
            except BudgetError:
                return math.inf  # no assignment has so few bits
            return max(
                -margin(k, _known(k, values), b) / UNITS.get(k, max(abs(b), 1e-9)) for k, b in bounds.items()
            )

        return fewest(
            evaluate,
            LOW,
            assign.avg_bits or HIGH,
            resolution=RESOLUTION,
            most_evaluations=MOST_EVALUATIONS,
            name="avg-bits",
        )

    def _deciding(self, bits: float) -> Values:
        if bits not in self.values:
            p = self.prepared
            calibrated = p.calibration is not None and p.deciding
            calls = p.calibration.deciding if calibrated and p.calibration is not None else p.calls
            self.values[bits] = self.measure(bits, calls, p.deciding if calibrated else p.expected)
            p.context.progress("searching the fewest bits", len(self.values), MOST_EVALUATIONS)
        return self.values[bits]

    def measure(self, bits: float, calls: Sequence[Feeds], expected: Sequence[Feeds]) -> Values:
        assert self.yardstick is not None
        trial, _ = self._run(self.passes(bits))
        return self.yardstick.values(self.prepared, trial, calls, expected)

    def _run(self, passes: tuple[Pass, ...]) -> tuple[LpGraph, list[PassReport]]:
        trial = self.prepared.graph.copy()
        quiet = replace(self.prepared.context, warnings=[])
        return trial, Pipeline(passes, frozenset(trial.facts)).run(trial, quiet)


def _known(name: str, values: Values) -> float:
    value = values.get(name)
    if value is None:
        raise BudgetError(
            f"{name} cannot be measured on this model",
            hint="its outputs have no classes; use sqnr-db or metric-drop",
        )
    return value
