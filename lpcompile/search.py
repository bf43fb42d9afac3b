"""The outer loop for bounds that only the compiled model can tell: the fewest bits a weight that meet them.

Each evaluation assigns formats at another average width, rounds, emits and measures on the deciding calls; candidates
are scored once. What was found is confirmed on the judging calls: where it misses a bound there, the bound is asked for
with the difference between the two to spare. [architecture 6]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpcompile.assignment.bisection import Bisection, Evaluation, fewest
from lpcompile.assignment.budget import DEFAULT_AVG_BITS, excess, keeps, margin
from lpcompile.emission import Emission
from lpcompile.errors import BudgetError
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import Pass
from lpcompile.prepared import Prepared
from lpcompile.records import PassReport
from lpcompile.trials import Trial, Trials, Values
from lpcompile.yardstick import Yardstick

LOW, HIGH = 2.0, 33.0  # bits a weight: below every 4-bit format, above floats
RESOLUTION = 0.05  # a hundredth of the file
MOST_EVALUATIONS = 10  # before the first confirmation
CONFIRMATIONS = 3
WHAT = "searching the fewest bits"


@dataclass(frozen=True)
class Searched:
    """What the loop found.

    Attributes:
        passes: the tail of the pipeline at the budget that was found.
        graph: after them, as emitted.
        reports: of them.
        emission: of that graph, judged on the judging calls.
        document: for the report: bounds, every evaluation, notes.
    """

    passes: tuple[Pass, ...]
    graph: LpGraph
    reports: list[PassReport]
    emission: Emission
    document: dict[str, Any]


def search(
    prepared: Prepared, tail: Sequence[Pass], yardstick: Yardstick, bounds: Mapping[str, float]
) -> Searched:
    """The tail of a pipeline at the least average width whose result meets measured bounds.

    Args:
        prepared: a compilation after the passes before `assign-formats`.
        tail: the passes from there on.
        yardstick: what is measured.
        bounds: by the names of `budget.MEASURED`; a bound on avg-bits in the pass is the largest width tried.

    Raises:
        BudgetError: the widest assignment misses a bound too; names the nearest point.
    """
    if "metric-drop" in bounds and yardstick.metric is None:
        raise _not_measurable("metric-drop")
    if prepared.context.checkpoint is not None:
        prepared.context.warnings.append(
            "no checkpoints are kept: each width that is tried is retrained from the start"
        )
    return _Loop(prepared, Trials(prepared, tuple(tail), yardstick), bounds).run()


class _Loop:
    def __init__(self, prepared: Prepared, trials: Trials, bounds: Mapping[str, float]) -> None:
        self.prepared, self.trials, self.bounds = prepared, trials, bounds
        self.known: dict[float, Trial] = {}
        self.refused: dict[float, dict[str, float]] = {}  # by budget: bounds missed on the judging calls
        self.notes: list[str] = []

    def run(self) -> Searched:
        asked = dict(self.bounds)
        for _ in range(CONFIRMATIONS):
            found = self.fewest(asked)
            if found.result is None:
                break
            trial = self.known[found.result.budget]
            done = self.confirmed(trial, found)
            if isinstance(done, Searched):
                return done
            self.refused[trial.budget] = {k: _known(k, self.judged) for k in done}
            for name, judged in self.refused[
                trial.budget
            ].items():  # as much better as they were on deciding calls
                asked[name] = self.bounds[name] + _known(name, trial.values) - judged
            if "agreement" in asked:
                asked["agreement"] = min(asked["agreement"], 1.0)
        widest = self.known[max(self.known)]
        if self.missed(widest.values):
            raise self.nearest(widest, widest.values)
        done = self.confirmed(widest, None)
        if isinstance(done, Searched):
            return done
        raise self.nearest(widest, self.judged)

    def fewest(self, asked: Mapping[str, float]) -> Bisection:
        """The least width by the deciding calls, under bounds that may be tighter than the user's."""

        def evaluated(trial: Trial) -> Evaluation:
            values = {k: excess(k, trial.values.get(k), bound) for k, bound in asked.items()}
            refused = self.refused.get(trial.budget, {})
            values |= {
                k: max(v, excess(k, refused[k], self.bounds[k])) for k, v in values.items() if k in refused
            }
            return Evaluation(trial.budget, min(trial.used, trial.budget), values)

        assignment = self.trials.assignment
        high = assignment.avg_bits or HIGH
        slopes = {}
        if assignment.loss in ("logits", "probe") and "sqnr-db" in asked:  # half the noise over the signal
            slopes["sqnr-db"] = 2 * 10 ** (asked["sqnr-db"] / 10)
        return fewest(
            lambda budget: evaluated(self.at(budget)),
            min(LOW, high),
            high,
            self.trials.prediction,
            first=DEFAULT_AVG_BITS,
            slopes=slopes,
            known=[evaluated(t) for t in self.known.values()],
            resolution=RESOLUTION,
            most_evaluations=max(2, MOST_EVALUATIONS - len(self.known)),
            name="avg-bits",
            by_chance=("metric-drop", "agreement"),
        )

    def at(self, budget: float) -> Trial:
        if budget not in self.known:
            done = min(len(self.known), MOST_EVALUATIONS - 1)  # confirmations may ask for more
            self.prepared.context.progress(WHAT, done, MOST_EVALUATIONS)
            trial = self.trials.at(budget)
            for name in self.bounds:
                if trial.values.get(name) is None:
                    raise _not_measurable(name)
            self.known[budget] = trial
        return self.known[budget]

    def confirmed(self, trial: Trial, found: Bisection | None) -> Searched | dict[str, float]:
        """The end of the compilation, or by how much it misses bounds on the judging calls."""
        graph, emission, self.judged = self.trials.judged(trial)
        if missed := self.missed(self.judged):
            words = ", ".join(f"{k} {self.judged[k]:.4g}" for k in missed)
            self.notes.append(f"{trial.used:.3f} bits kept the bounds, but not on the judging calls: {words}")
            return missed
        self.prepared.context.progress(WHAT, MOST_EVALUATIONS, MOST_EVALUATIONS)
        first = next(iter(self.known.values()))  # candidates were scored in it
        self.prepared.context.warnings.extend(dict.fromkeys([*first.warnings, *trial.warnings]))
        notes = [*self.notes, *(() if found is None else found.notes)]
        return Searched(trial.passes, graph, trial.reports, emission, self.document(trial, notes))

    def missed(self, values: Values) -> dict[str, float]:
        """By how much the user's bounds are missed."""
        known = {k: _known(k, values) for k in self.bounds}
        return {k: -margin(k, v, self.bounds[k]) for k, v in known.items() if not keeps(k, v, self.bounds[k])}

    def document(self, trial: Trial, notes: Sequence[str]) -> dict[str, Any]:
        tried = sorted(self.known.values(), key=lambda t: t.budget)
        return {
            "bounds": dict(self.bounds),
            "avg_bits": trial.used,
            "evaluations": [
                {
                    "avg_bits": t.used,
                    "budget": t.budget,
                    "values": dict(t.values),
                    "ok": not self.missed(t.values),
                }
                for t in tried
            ],
            "evaluated": len(tried),
            "notes": list(notes),
        }

    def nearest(self, trial: Trial, values: Values) -> BudgetError:
        missed = list(self.missed(values))
        words = " and ".join(
            f"{k} {self.bounds[k]:g} is not met: it is {_known(k, values):.4g} at {trial.used:.4g} bits a weight"
            for k in missed
        )
        cap = self.trials.assignment.avg_bits
        more = f"allow more than avg-bits={cap:g}, or " if cap else ""
        near = ",".join(f"{k}={_known(k, values):.4g}" for k in missed)
        return BudgetError(
            f"{words}, the nearest point",
            hint=f"{more}loosen the bound to {near}, or use more precise activations or --keep-float",
            nearest={"avg-bits": trial.used, **{k: _known(k, values) for k in self.bounds}},
        )


def _known(name: str, values: Values) -> float:
    value = values.get(name)
    if value is None:
        raise _not_measurable(name)
    return value


def _not_measurable(name: str) -> BudgetError:
    hints = {
        "agreement": "its outputs have no classes; use sqnr-db or metric-drop",
        "metric-drop": "say what is measured with --metric MODULE:FUNCTION",
    }
    return BudgetError(
        f"{name} cannot be measured on this model",
        hint=hints.get(name, "no call could be compared; use metric-drop"),
    )
