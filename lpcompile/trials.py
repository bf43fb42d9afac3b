"""Compilations at different average widths, measured: candidates are scored once, what was compiled is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lpcompile.assignment.bisection import Prediction
from lpcompile.emission import Emission, Gate, emit
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.prepared import Prepared
from lpcompile.records import PassReport
from lpcompile.yardstick import Yardstick

HELD_BYTES = 1 << 28  # of codes of graphs that are kept
FLOAT_BITS = 32.0
Values = dict[str, float | None]


@dataclass
class Trial:
    """One compilation.

    Attributes:
        budget: average width that was allowed.
        used: average width of what was assigned, over all layers with weights.
        passes: the tail of the pipeline.
        reports: of them.
        warnings: what they said.
        values: measured on the deciding calls, by the names of `budget.MEASURED`.
        graph: with its finished plan; None once it was let go.
    """

    budget: float
    used: float
    passes: tuple[Pass, ...]
    reports: list[PassReport]
    warnings: list[str]
    values: Values
    graph: LpGraph | None = None


@dataclass
class Trials:
    """All of one search.

    Args:
        prepared: a compilation after the passes before `assign-formats`; its graph is not changed.
        tail: the passes from there on.
        yardstick: what is measured.
    """

    prepared: Prepared
    tail: tuple[Pass, ...]
    yardstick: Yardstick
    made: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.prepared.graph
        self.tail = tuple(p.for_any_width(graph) if isinstance(p, AssignFormats) else p for p in self.tail)

    @property
    def assignment(self) -> AssignFormats:
        """The pass that is given budgets."""
        return next(p for p in self.tail if isinstance(p, AssignFormats))

    def passes(self, budget: float) -> tuple[Pass, ...]:
        """The tail at another average width."""
        return tuple(
            replace(p, avg_bits=budget, nearest=False) if isinstance(p, AssignFormats) else p
            for p in self.tail
        )

    def at(self, budget: float) -> Trial:
        """Compile and measure on the deciding calls.

        Raises:
            BudgetError: no assignment is so small.
        """
        graph, reports, warnings = self._run(budget)
        prepared, plan = self.prepared, graph.plan
        calls, expected = prepared.calls, prepared.expected
        if prepared.calibration is not None and prepared.deciding:
            calls, expected = prepared.calibration.deciding, prepared.deciding
        emission = self._emitted(graph, Gate(calls, expected, prepared.allowed, None, prepared.recipe))
        graph.plan = plan  # what falls back is decided once more, by the judging calls
        values = self.yardstick.values(emission)
        trial = Trial(budget, self._used(reports), self.passes(budget), reports, warnings, values, graph)
        self.made.append(trial)
        self._let_go()
        return trial

    def judged(self, trial: Trial) -> tuple[LpGraph, Emission, Values]:
        """The end of the compilation: emitted and measured on the judging calls.

        Returns:
            The graph with the plan that passed, the emission, and what was measured.
        """
        graph = trial.graph.copy() if trial.graph is not None else self._run(trial.budget)[0]
        p = self.prepared
        emission = self._emitted(graph, Gate(p.calls, p.expected, p.allowed, p.original, p.recipe))
        return graph, emission, self.yardstick.values(emission)

    def prediction(self) -> Prediction:
        """Predicted losses by average width, once one was tried."""
        widths, losses = self.assignment.trade_off(self.prepared.graph, self.prepared.context)
        if not widths:  # no layer is assigned: nothing to search
            return Prediction([self.made[0].used], [0.0])
        return Prediction(widths, losses)

    def _run(self, budget: float) -> tuple[LpGraph, list[PassReport], list[str]]:
        graph, warnings = self.prepared.graph.copy(), list[str]()
        context = replace(self.prepared.context, warnings=warnings, checkpoint=None, resume=False)
        reports = Pipeline(self.passes(budget), frozenset(graph.facts)).run(graph, context)
        return graph, reports, [*warnings, *graph.notes[len(self.prepared.graph.notes) :]]

    def _emitted(self, graph: LpGraph, gate: Gate) -> Emission:
        return emit(graph, self.prepared.target, self.yardstick.options, gate)

    def _used(self, reports: Sequence[PassReport]) -> float:
        metrics: dict[str, Any] = next(r.metrics for r in reports if r.name == AssignFormats.name)
        return float(metrics.get("avg_bits", FLOAT_BITS))

    def _let_go(self) -> None:
        held = 0
        for trial in reversed(self.made):
            if trial.graph is not None:
                held += sum(_codes_bytes(trial.graph))
                if held > HELD_BYTES and trial is not self.made[-1]:
                    trial.graph = None


def _codes_bytes(graph: LpGraph) -> list[int]:
    return [p.tensor.codes.nbytes for p in graph.plan.layers.values() if p.tensor is not None]
