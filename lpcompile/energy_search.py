"""The outer loop for a bound on energy: formats are assigned by estimates, the bound is on the program as simulated.

Estimates are of single layers before anything is lowered [cim-machine 3]. Where the program misses the bound although
the estimate kept it, the estimate's bound is tightened: first by the ratio, then along the line through the last two
points, and last of all to the least estimate there is; where that leaves the bound far off, a looser one is tried.
Candidates are scored once. [architecture 6]
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lpcompile.emission import Emission, Gate, emit
from lpcompile.errors import BudgetError
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.prepared import Prepared
from lpcompile.records import PassReport
from lpcompile.search import Searched
from lpcompile.target import Options, Products

MOST_TRIALS = 5
SLACK = 0.02  # of the bound: less is not worth another trial
EDGE = 0.1  # of the gap between a trial that kept the bound and one that missed it
ENERGY = "energy-pj"
LEAST = 1e-6  # of the bound: less than any assignment takes
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
        self.kept: tuple[Searched, Products, float] | None = None

    def run(self) -> tuple[Searched, Products]:
        asked: float | None = self.bound
        while asked is not None and len(self.tried) < MOST_TRIALS:
            try:
                made = self.assigned(asked)
            except BudgetError as error:
                if ENERGY not in error.nearest:
                    raise
                least = error.nearest[ENERGY] * (1 + SAFE)
                asked = None if self.known(least) else least
                continue
            if self.known(made.estimate):
                break
            searched, products = self.finished(made)
            energy = products.report.get("totals", {}).get("energy_pj")
            self.tried.append((made.estimate, math.inf if energy is None else energy))
            if energy is None or energy <= self.bound:
                self.kept = searched, products, asked
                self.prepared.context.resident = self.resident
                asked = None if energy is None else self.looser()
            elif self.kept is not None:
                asked = self.looser()
            elif self.resident and not products.report.get("program", {}).get("weights_stay", True):
                self.resident, asked = (
                    False,
                    self.bound,
                )  # estimates without loading weights mean nothing here
                self.tried[-1] = (math.inf, energy)
            elif len(self.tried) < MOST_TRIALS - 1:
                asked = tightened(self.tried, self.bound)
            else:
                asked = LEAST * self.bound
        if self.kept is not None:
            searched, products, asked = self.kept
            searched.document["energy_pj"] = self.document(asked)
            return searched, products
        best = min(energy for _, energy in self.tried)
        raise BudgetError(
            f"{ENERGY} cannot be brought to {self.bound:g}: the least that was simulated is {best:.6g}",
            hint=f"ask for {ENERGY} of {best * 1.00001:.6g} or more, or allow smaller formats",
            nearest={ENERGY: best},
        )

    def known(self, estimate: float) -> bool:
        """Whether an assignment of that estimate was simulated."""
        return any(math.isclose(estimate, tried, rel_tol=2 * SAFE) for tried, _ in self.tried)

    def looser(self) -> float | None:
        """A bound on the estimate between what was kept and what was missed; None where little is to be gained."""
        low = max((t for t in self.tried if t[1] <= self.bound), default=None)
        above = [t for t in self.tried if t[1] > self.bound and math.isfinite(t[0])]
        above = [t for t in above if low is not None and t[0] > low[0]]
        if low is None or not above or low[1] >= (1 - SLACK) * self.bound:
            return None
        high = min(above)
        share = (self.bound - low[1]) / (high[1] - low[1])
        return low[0] + min(max(share, EDGE), 1 - EDGE) * (high[0] - low[0])

    def assigned(self, asked: float) -> "_Assigned":
        """The graph with its finished plan, under a bound on the estimate."""
        p, warnings = self.prepared, list[str]()
        passes = tuple(replace(x, energy_pj=asked) if isinstance(x, AssignFormats) else x for x in self.tail)
        graph = p.graph.copy()
        context = replace(p.context, warnings=warnings, resident=self.resident, checkpoint=None, resume=False)
        reports = Pipeline(passes, frozenset(graph.facts)).run(graph, context)
        p.context.warnings.extend(w for w in warnings if w not in p.context.warnings)
        return _Assigned(passes, graph, reports)

    def finished(self, made: "_Assigned") -> tuple[Searched, Products]:
        """What becomes of it."""
        p = self.prepared
        gate = Gate(p.calls, p.expected, p.allowed, p.original, p.recipe)
        emission = emit(made.graph, p.target, self.options, gate)
        return Searched(made.passes, made.graph, made.reports, emission, {}), self.build(emission)

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
            return max(LEAST * bound, min(estimate - (energy - bound) / slope, estimate * (1 - 1e-6)))
    return estimate * bound / energy


@dataclass(frozen=True)
class _Assigned:
    passes: tuple[Pass, ...]
    graph: LpGraph
    reports: list[PassReport]

    @property
    def estimate(self) -> float:
        """What the assigned layers add up to; 0 where there is none."""
        return next((r.metrics[ENERGY] for r in self.reports if ENERGY in r.metrics), 0.0)
