"""Decide how LSTM, GRU and RNN layers run and store their weights: int8 with a scale a row, by input and by state.

An LSTM of ONNX Runtime runs on integers whose ranges are measured at every step, 2 to 6 times as fast as on floats.
Everything else keeps its speed and stores a quarter. An error of one step goes into the next, so what that costs is
measured on the outputs of the float network; a layer that costs too much computes in floats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_constants import put_recurrent
from lpcompile.ir.value import Value
from lpcompile.materialise.recurrent_layers import write_recurrent_layers
from lpcompile.passes.tolerated import Noise, tolerated
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel, RecurrentPlan
from lpcompile.quant.row_table import RowTable, row_table
from lpcompile.records import PassReport

Pair = tuple[RowTable, RowTable]  # W and R
Rounded = Mapping[Kernel, Pair]
OPS = ("LSTM", "GRU", "RNN")
LEAST_BYTES = 4096  # of weights; below, nodes take what codes save
ROWS = (0, 1)  # axes of weights (directions, gates * hidden, inputs) that tell rows apart
KERNELS = ("auto", Kernel.DYNAMIC.value, Kernel.WEIGHT_ONLY.value)

ON_REQUEST = "kept float on request"
ON_HOST = "the host computes it, in floats"
NOT_CONSTANT = "its weights are no float32 constants"
SMALL = f"its weights take fewer than {LEAST_BYTES} bytes"
SHARED = "something other than a layer like it reads its weights, too"
NOT_FINITE = "its weights hold values that are not finite"
NOT_DECIDED = "the decisions leave it float"


@dataclass(frozen=True, slots=True)
class QuantizeRecurrent(Pass):
    """Recurrent layers in int8.

    Attributes:
        kernel: dynamic: an LSTM on integers, its ranges measured at run time; weight-only: floats that int8 weights are
            expanded to when the model is loaded; auto: dynamic where it is there and keeps least-db.
        least-db: output SQNR that all layers on integers may leave together.
        least-weight-db: the same of rounded weights alone; what costs more stays float.
    """

    name: ClassVar[str] = "quantize-recurrent"
    summary: ClassVar[str] = (
        "LSTM, GRU and RNN with int8 weights; an LSTM runs on integers where its outputs allow it"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    kernel: str = "auto"
    least_db: float = 22.0
    least_weight_db: float = 30.0

    def __post_init__(self) -> None:
        option_checks.one_of("kernel", self.kernel, KERNELS)
        option_checks.positive("least-db", self.least_db)
        option_checks.positive("least-weight-db", self.least_weight_db)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan every recurrent layer; those that are planned already stay as they are."""
        report = PassReport(self.name)
        found: dict[str, Rounded] = {}
        for node in graph.nodes(*OPS):
            if node.domain or node.name in graph.plan.recurrent:
                continue
            if reason := _obstacle(node, ctx):
                report.skip(node, reason)
                continue
            found[node.name] = _rounded(node, reduce_range=graph.plan.reduce_range)
        if ctx.decisions is not None:
            _replay(graph, ctx.decisions.recurrent, found, report)
        elif found:
            self._decide(graph, ctx, found, report)
        report.metrics["recurrent_layers"] = len(graph.plan.recurrent)
        return report

    def _decide(
        self,
        graph: LpGraph,
        ctx: PassContext,
        found: Mapping[str, Rounded],
        report: PassReport,
    ) -> None:
        noise = Noise(graph, ctx)
        lstm = [n for n in found if _runs_on_integers(graph.node(n))] if self.kernel != KERNELS[2] else []
        planned = self._kept(graph, noise, Kernel.DYNAMIC, lstm, found, self.least_db)
        rest = [n for n in found if n not in planned]
        planned |= self._kept(graph, noise, Kernel.WEIGHT_ONLY, rest, found, self.least_weight_db, report)
        for name, plan in planned.items():
            _take(graph, name, plan, found[name], report)

    def _kept(
        self,
        graph: LpGraph,
        noise: Noise,
        kernel: Kernel,
        names: Sequence[str],
        found: Mapping[str, Rounded],
        least_db: float,
        report: PassReport | None = None,
    ) -> dict[str, RecurrentPlan]:
        """Layers that may have this kernel; where a report is given the others are skipped in it."""

        def db(numbers: Sequence[int]) -> float:
            return noise.db(_changed(graph, {names[i]: found[names[i]][kernel] for i in numbers}, kernel))

        what = "int8 weights" if kernel is Kernel.WEIGHT_ONLY else "8-bit steps"
        kept = tolerated(len(names), db if noise.measures else None, least_db, what)
        for i, name in enumerate(names):
            if report is not None and i not in kept.kept:
                report.skip(name, kept.reasons[i])
        return {
            n: RecurrentPlan(kernel, reason=kept.reasons[i]) for i, n in enumerate(names) if i in kept.kept
        }


def _rounded(node: Node, *, reduce_range: bool) -> Rounded:
    """W and R for each kernel: only one of them multiplies their codes."""
    values = [_weight(node, at).values for at in (1, 2)]
    plain = (row_table(values[0], ROWS, "int8"), row_table(values[1], ROWS, "int8"))
    if not (reduce_range and _runs_on_integers(node)):
        return {Kernel.DYNAMIC: plain, Kernel.WEIGHT_ONLY: plain}
    w, r = (row_table(v, ROWS, "int8", reduce_range=True) for v in values)
    return {Kernel.DYNAMIC: (w, r), Kernel.WEIGHT_ONLY: plain}


def _changed(graph: LpGraph, weights: Mapping[str, Pair], kernel: Kernel) -> LpGraph:
    """A copy that computes these layers as planned."""
    copy = graph.copy()
    plans = {name: RecurrentPlan(kernel, pair, _sha256(pair)) for name, pair in weights.items()}
    if kernel is Kernel.WEIGHT_ONLY:
        put_recurrent(copy, plans)
        return copy
    copy.plan = replace(copy.plan, recurrent=plans)
    write_recurrent_layers(copy)
    return copy


def _replay(
    graph: LpGraph,
    decided: Mapping[str, RecurrentPlan],
    found: Mapping[str, Rounded],
    report: PassReport,
) -> None:
    for name, weights in found.items():
        plan = decided.get(name)
        if plan is None:
            report.skip(name, NOT_DECIDED)
        elif plan.kernel is Kernel.DYNAMIC and not _runs_on_integers(graph.node(name)):
            only = replace(plan, kernel=Kernel.WEIGHT_ONLY, reason="it has no kernel on integers")
            _take(graph, name, only, weights, report)
        else:
            _take(graph, name, plan, weights, report)


def _take(graph: LpGraph, name: str, plan: RecurrentPlan, rounded: Rounded, report: PassReport) -> None:
    weights = rounded[plan.kernel]
    whole = replace(plan, weights=weights, codes_sha256=_sha256(weights))
    graph.plan = graph.plan.with_recurrent(name, whole)
    before = sum(_weight(graph.node(name), i).nbytes for i in (1, 2))
    report.change(
        name,
        f"{plan.kernel.value}, int8 weights",
        f"{before} bytes",
        f"{sum(w.nbytes for w in weights)} bytes",
    )


def _sha256(weights: Pair) -> str:
    return weights[0].sha256[:32] + weights[1].sha256[:32]


def _weight(node: Node, at: int) -> Value:
    value = node.inputs[at]
    assert value is not None
    return value


def _runs_on_integers(node: Node) -> bool:
    return node.op == "LSTM" and not node.attrs.get("layout", 0)


def _obstacle(node: Node, ctx: PassContext) -> str:
    """Why a layer stays float; empty where it need not."""
    if node.name in ctx.keep_float:
        return ON_REQUEST
    if ctx.target is not None and not ctx.target.rules.falls_back:
        return ON_HOST
    weights = [v for v in node.inputs[1:3] if v is not None and v.is_constant and v.dtype == np.float32]
    if len(weights) < 2 or any(w.shape is None or len(w.shape) != 3 for w in weights):
        return NOT_CONSTANT
    if sum(w.nbytes for w in weights) < LEAST_BYTES:
        return SMALL
    if any(w.is_output or w.used_in_subgraph for w in weights):
        return SHARED
    for at, weight in enumerate(weights, 1):
        if any(n.op != node.op or n.inputs[at] != weight for n in weight.consumers):
            return SHARED
    return "" if all(np.isfinite(w.values).all() for w in weights) else NOT_FINITE
