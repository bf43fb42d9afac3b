"""The outer loop for a bound on energy: formats are assigned by estimates, the bound is on the program as simulated.

Estimates are of single layers before anything is lowered [cim-machine 3]. Where the program misses the bound although
the estimate kept it, the estimate's bound is tightened: first by the ratio, then along the line through the last two
points. Candidates are scored once. [architecture 6]
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from lpcompile.emission import Emission, Gate, emit
from lpcompile.errors import BudgetError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.prepared import Prepared
from lpcompile.records import PassReport
from lpcompile.search import Searched
from lpcompile.target import Options, Products

TIGHTENINGS = 3
ENERGY = "energy-pj"
SAFE = 1e-9  # relative, above the least estimate there is
Build = Callable[[Emission], Products]
Point = tuple[float, float]  # estimated, simulated


def keep_energy(
    prepared: Prepared, tail: Sequence[Pass], options: Options, build: Build
) -> tuple[Searched, Products]:
    """The first assignment, by ever tighter estimates, whose program keeps the bound on energy.

    Args:
        prepared: a compilation after the passes before `assign-formats`; its graph is not changed.
        tail: the passes from there on.
        options: with the bound.
        build: what the target makes of an emission, simulated where a sample can be run.

    Returns:
        The end of the compilation and what was built; where nothing could be simulated, of the first assignment.

    Raises:
        BudgetError: the bound is kept by none; names the nearest point.
    """
    return _Loop(prepared, tuple(tail), options, build).run()


class _Loop:
    def __init__(self, prepared: Prepared, tail: tuple[Pass, ...], options: Options, build: Build) -> None:
        self.prepared, self.tail, self.options, self.build = prepared, tail, options, build
        self.bound = options.budget[ENERGY]
        self.resident = True
        self.tried: list[Point] = []

    def run(self) -> tuple[Searched, Products]:
        asked = self.bound
        while len(self.tried) <= TIGHTENINGS:
            try:
                searched, products, estimate = self.at(asked)
            except BudgetError as error:
                least = error.nearest.get(ENERGY)
                if not self.tried or least is None:  # the estimate itself says that it is too little
                    raise
                least *= 1 + SAFE
                if asked == least or any(known <= least for known, _ in self.tried):
                    break
                asked = least
                continue
            energy = products.report.get("totals", {}).get("energy_pj")
            self.tried.append((estimate, math.inf if energy is None else energy))
            if energy is None or energy <= self.bound:
                self.prepared.context.resident = self.resident
                searched.document["energy_pj"] = self.document(asked)
                return searched, products
            stays = products.report.get("program", {}).get("weights_stay", True)
            if self.resident and not stays:  # estimates without loading weights mean nothing here
                self.resident = False
                self.tried[-1] = (math.inf, energy)
                asked = self.bound
            else:
                asked = tightened(self.tried, self.bound)
        best = min(energy for _, energy in self.tried)
        raise BudgetError(
            f"{ENERGY} cannot be brought to {self.bound:g}: the least that was simulated is {best:.6g}",
            hint=f"ask for {ENERGY} of {best * 1.00001:.6g} or more, or allow smaller formats",
            nearest={ENERGY: best},
        )

    def at(self, asked: float) -> tuple[Searched, Products, float]:
        """Everything to the end, under a bound on the estimate; and the estimate."""
        p, warnings = self.prepared, list[str]()
        passes = tuple(replace(x, energy_pj=asked) if isinstance(x, AssignFormats) else x for x in self.tail)
        graph = p.graph.copy()
        context = replace(p.context, warnings=warnings, resident=self.resident, checkpoint=None, resume=False)
        reports = Pipeline(passes, frozenset(graph.facts)).run(graph, context)
        emission = emit(
            graph, p.target, self.options, Gate(p.calls, p.expected, p.allowed, p.original, p.recipe)
        )
        products = self.build(emission)
        p.context.warnings.extend(w for w in warnings if w not in p.context.warnings)
        return Searched(passes, graph, reports, emission, {}), products, _estimate(reports)

    def document(self, asked: float) -> dict[str, object]:
        shown = [
            {"estimated": a if math.isfinite(a) else None, "simulated": b if math.isfinite(b) else None}
            for a, b in self.tried
        ]
        return {"bound": self.bound, "bound_on_estimate": asked, "tried": shown}


def tightened(tried: Sequence[Point], bound: float) -> float:
    """The next bound on the estimate: on the line through the last two points, else in proportion.

    Args:
        tried: in order, all above the bound.
        bound: for what is simulated.
    """
    estimate, energy = tried[-1]
    before, energy_before = tried[-2] if len(tried) > 1 else (math.inf, energy)
    if math.isfinite(before) and estimate != before:
        slope = (energy - energy_before) / (estimate - before)
        if slope > 0:
            return max(1e-6 * bound, min(estimate - (energy - bound) / slope, estimate * (1 - 1e-6)))
    return estimate * bound / energy


def _estimate(reports: Sequence[PassReport]) -> float:
    """What the assignment's layers add up to; 0 where none was assigned."""
    return next((r.metrics[ENERGY] for r in reports if ENERGY in r.metrics), 0.0)
