"""The outer loop for bounds that only the compiled model can tell: the fewest bits a weight that meet them.

Each evaluation assigns formats at another average width, rounds, emits and measures on the deciding calls; candidates
are scored once. What was found is confirmed on the judging calls: where it misses a bound there, the bound is asked for
with that much to spare. [architecture 6]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lpcompile.analysis.calibration import Feeds
from lpcompile.assignment.bisection import Bisection, fewest
from lpcompile.assignment.budget import AT_LEAST, margin
from lpcompile.errors import BudgetError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.prepared import Prepared
from lpcompile.yardstick import Yardstick

LOW, HIGH = 2.0, 33.0  # bits a weight: below every 4-bit format, above floats
RESOLUTION = 0.02
MOST_EVALUATIONS = 12
CONFIRMATIONS = 3
UNITS = {
    "sqnr-db": 1.0,
    "agreement": 0.01,
}  # margins are compared in these; of metric-drop in the bound itself

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


class _Loop:
    def __init__(self, prepared: Prepared, tail: tuple[Pass, ...], yardstick: Yardstick) -> None:
        self.prepared, self.tail, self.yardstick = prepared, tail, yardstick
        self.at = next(i for i, p in enumerate(tail) if isinstance(p, AssignFormats))
        self.values: dict[float, Values] = {}

    def passes(self, bits: float) -> tuple[Pass, ...]:
        assign = self.tail[self.at]
        assert isinstance(assign, AssignFormats)
        return (*self.tail[: self.at], replace(assign, avg_bits=round(bits, 6)), *self.tail[self.at + 1 :])

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
        trial = self.prepared.graph.copy()
        quiet = replace(self.prepared.context, warnings=[])
        Pipeline(self.passes(bits), frozenset(trial.facts)).run(trial, quiet)
        return self.yardstick.values(self.prepared, trial, calls, expected)


def _known(name: str, values: Values) -> float:
    value = values.get(name)
    if value is None:
        raise BudgetError(
            f"{name} cannot be measured on this model",
            hint="its outputs have no classes; use sqnr-db or metric-drop",
        )
    return value
