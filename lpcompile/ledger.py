"""What each pass gained: output SQNR of the rounded network after it, on calls that decided nothing.

A pass that changes the plan is measured in floats, everything rounded as planned (`analysis.rounded_network`), on the
judging calls; what it gained over the step before is paired, call by call, and has a standard error (`analysis.gain`).
Nothing is decided by it. Ranges that are measured at run time are measured here, too, of the judging calls. Of several
outputs it is the mean of noise over signal; `quality` tells the worst one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lpcompile.analysis.batches import ObserveGraph, batch_inputs
from lpcompile.analysis.calibration import Calibration, Feeds, RunFeeds
from lpcompile.analysis.gain import gain_db
from lpcompile.analysis.judged import Judged
from lpcompile.analysis.macs import macs_of_call
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_bytes, rounded_network
from lpcompile.autodiff.losses import float_outputs
from lpcompile.errors import LpcompileError, ModelError
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.memory import collect_replaced
from lpcompile.pipeline import Pass
from lpcompile.plan import AT_RUN_TIME, LayerPlan, QuantPlan
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

ACTIVATIONS_ALONE, NEAREST_WEIGHTS = "activations alone", "nearest weights"
AS_SEARCHED = "passes as searched"  # those that an outer loop ran with other budgets
MOST_MACS = 3e9  # of one measurement; a tenth of a second or two
TOO_MANY_MACS = 1e11  # of the fewest calls
LEAST_CALLS = 2  # one has no standard error
MOST_BYTES = 1 << 28  # of float weights: every measurement holds them once more
EXACT_DB = 200.0


@dataclass(frozen=True)
class Entry:
    """One step.

    Attributes:
        step: name of the pass; or "activations alone", before weights are rounded, and "nearest weights", which would
            be there under the same scales without the rounding that was chosen.
        sqnr_db: of the outputs, their mean noise over signal.
        gain_db: over the step before; None for the first one.
        gain_error_db: standard error of that; None where one call was measured.
        logits_gain_db, logits_gain_error_db: the same of what the softmax reads; None but where every output has one.
        seconds: of the pass; None where the step is none of its own.
        kept: whether anything that the pass made is in the plan.
    """

    step: str
    sqnr_db: float
    gain_db: float | None
    gain_error_db: float | None
    seconds: float | None
    kept: bool
    logits_gain_db: float | None = None
    logits_gain_error_db: float | None = None


@dataclass
class Ledger:
    """The steps of one compilation.

    Args:
        calls: the judging calls.
        observe: opens a float graph so that it gives named tensors.
        held_back: whether the calls took no part in any decision.
        progress: called as progress(what, done, total).
        obstacle: why nothing can be measured; empty where it can.
    """

    calls: Sequence[Feeds]
    observe: ObserveGraph
    held_back: bool = True
    progress: Progress = no_progress
    obstacle: str = ""
    entries: list[Entry] = field(default_factory=list)
    seconds: float = 0.0
    _plan: QuantPlan | None = None
    _judge: Judge | None = None
    _noise: F64 | None = None
    _logits: Judge | None = None
    _logits_noise: F64 | None = None

    @classmethod
    def of(
        cls, calibration: Calibration | None, observe: ObserveGraph, progress: Progress = no_progress
    ) -> "Ledger":
        """An empty one, on the judging calls of the samples."""
        if calibration is None or calibration.generated:
            return cls([], observe, held_back=False, obstacle="there is no calibration data")
        return cls(calibration.judging, observe, held_back=calibration.has_held_back, progress=progress)

    def after(self, _index: int, done: Pass, graph: LpGraph, report: PassReport) -> None:
        """Measure, where a pass may have changed what the network gives; an observer of pipelines.

        A pass that met nothing of what it is for is no step.
        """
        changed = graph.plan is not self._plan or bool(report.changes)
        idle = not changed and not report.skips and not any(report.metrics.values())
        if not done.exact and not idle:
            self.add(done.name, graph, report.seconds, kept=changed)
        self._plan = graph.plan

    def add(self, step: str, graph: LpGraph, seconds: float | None, *, kept: bool = True) -> None:
        """Measure a graph as it is planned now; what cannot be measured ends the ledger with the reason."""
        plan = graph.plan
        rounds = any(layer.tensor is not None for layer in plan.layers.values())
        reads_codes = bool(plan.activations) or any(k.kernel in AT_RUN_TIME for k in plan.layers.values())
        if self.obstacle or not (rounds or reads_codes or plan.tables or plan.recurrent):
            return
        start = time.perf_counter()
        try:
            if self._judge is None:
                self._judge = self._opened(graph)
            if not rounds:
                step = ACTIVATIONS_ALONE if self._noise is None and reads_codes else step
            elif not self._rounded_before():
                self._begin(graph, plan)
            self._measure(step, graph, plan, seconds, kept=kept)
        except LpcompileError as error:
            self.obstacle = error.message
        self._plan = plan
        self.seconds += time.perf_counter() - start

    def document(self) -> dict[str, Any]:
        """For report.json: `ledger`, and under `ledger_basis` what it was measured on."""
        judge = self._judge
        samples = 0 if self._noise is None else len(self._noise)
        basis = {
            "calls": 0 if judge is None else len(judge.calls),
            "of_calls": len(self.calls),
            "samples": samples,
            "outputs": 0 if judge is None else len(judge.outputs),
            "held_back": self.held_back,
            "seconds": self.seconds,
            "reason": self.obstacle,
        }
        return {"ledger": [asdict(e) for e in self.entries], "ledger_basis": basis}

    def _counted(self, run: RunFeeds, calls: int) -> RunFeeds:
        done = 0

        def counted(feeds: Mapping[str, np.ndarray]) -> Feeds:
            nonlocal done
            found = run(feeds)
            done += 1
            self.progress("measuring what it gained", done, calls)
            return found

        return counted

    def _rounded_before(self) -> bool:
        return self._plan is not None and any(p.tensor is not None for p in self._plan.layers.values())

    def _begin(self, graph: LpGraph, plan: QuantPlan) -> None:
        """The steps that the first rounding of weights is compared with."""
        nearest = nearest_plan(graph, plan)
        if nearest is not None:
            self._measure(NEAREST_WEIGHTS, graph, nearest, None, kept=False)

    def _opened(self, graph: LpGraph) -> Judge:
        outputs = [v.name for v in float_outputs(graph)]
        if not outputs:
            raise ModelError("no output is made of floats")
        held = sum(v.nbytes for n in graph.layers() if (v := n.inputs[1]) is not None)
        if held > MOST_BYTES:
            raise ModelError(f"its float weights take {held >> 20} MiB: each step would hold them again")
        calls, judged = self._affordable(graph), Judged.of(graph)
        logits = list(judged.names) if judged.logits else []
        run = self.observe(graph, [*outputs, *logits])
        found = [run(c) for c in calls]
        counts = _counts_samples(graph, calls, [{o: y[o] for o in outputs} for y in found])
        if logits:
            self._logits = Judge(_as_run(found), calls, logits, per_sample=counts, logits=True)
        return Judge(_as_run(found), calls, outputs, per_sample=counts)

    def _affordable(self, graph: LpGraph) -> list[Feeds]:
        """Judging calls, evenly spread, whose multiply-accumulates keep within MOST_MACS."""
        shaped = graph.copy()
        shaped.infer_shapes({k: v.shape for k, v in self.calls[0].items()})
        each = max(1, sum(macs_of_call(n) or 0 for n in shaped.layers()))
        least = min(LEAST_CALLS, len(self.calls))
        if least * each > TOO_MANY_MACS:
            raise ModelError(f"a call takes {each:.2g} multiply-accumulates")
        count = int(np.clip(MOST_MACS / each, least, len(self.calls)))
        return [self.calls[int(i)] for i in np.linspace(0, len(self.calls) - 1, count).round()]

    def _measure(
        self, step: str, graph: LpGraph, plan: QuantPlan, seconds: float | None, *, kept: bool
    ) -> None:
        judge, before = self._judge, (self._noise, self._logits_noise)
        assert judge is not None
        if before[0] is None or kept or step == NEAREST_WEIGHTS:
            names = [*judge.outputs, *(self._logits.outputs if self._logits is not None else ())]
            run = self._counted(self.observe(rounded_network(graph, plan), names), len(judge.calls))
            found = [run(c) for c in judge.calls]
            del run
            collect_replaced(rounded_bytes(plan))
            self._noise = _noise_of(judge, found)
            self._logits_noise = None if self._logits is None else _noise_of(self._logits, found)
        assert self._noise is not None
        gains = _gain(before[0], self._noise), _gain(before[1], self._logits_noise)
        self.entries.append(Entry(step, _sqnr_db(self._noise), *gains[0], seconds, kept, *gains[1]))


def _as_run(found: Sequence[Feeds]) -> RunFeeds:
    """What was found, call by call, as if it were run."""
    given = iter(found)
    return lambda _call: next(given)


def _noise_of(judge: Judge, found: Sequence[Feeds]) -> F64:
    """Noise of samples; what is shown as exact has no gains."""
    return np.maximum(judge.noise_terms(_as_run(found)), 10 ** (-EXACT_DB / 10))


def _gain(before: F64 | None, after: F64 | None) -> tuple[float | None, float | None]:
    """dB, and its standard error; None where one or the other is not known."""
    if before is None or after is None:
        return None, None
    gain, spread = gain_db(before, after) if after is not before else (0.0, 0.0)
    return gain, spread if np.isfinite(spread) else None


def nearest_plan(graph: LpGraph, plan: QuantPlan) -> QuantPlan | None:
    """The plan with weights to nearest under their scales, biases as they were; None where they all are so.

    Layers with zero points, side paths, codebooks of their own or float group scales keep their codes.
    """
    found = {
        name: replace(layer, tensor=nearest_codes(rows, layer.tensor), bias_correction=None)
        for name, layer in plan.layers.items()
        if layer.tensor is not None
        and layer.weight.rounding != "nearest"
        and _rounds_again(layer)
        and (rows := _rows(graph.node(name))).shape == layer.tensor.shape
    }
    return replace(plan, layers={**plan.layers, **found}) if found else None


def _rounds_again(layer: LayerPlan) -> bool:
    tensor = layer.tensor
    if tensor is None or tensor.zeros is not None or tensor.side is not None or layer.weight.codebooks:
        return False
    return tensor.has_integer_groups or not isinstance(tensor.granularity, PerGroup)


def _rows(node: Node) -> np.ndarray:
    weight = node.inputs[1]
    assert weight is not None
    return np.asarray(to_rows(node.op, weight.values), np.float32)


def _sqnr_db(noise: F64) -> float:
    mean = float(noise.mean())
    return EXACT_DB if mean <= 0 else float(np.clip(-10 * np.log10(mean), -EXACT_DB, EXACT_DB))


def _counts_samples(graph: LpGraph, calls: Sequence[Feeds], outputs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first axis of every output counts the samples of its call."""
    batched = batch_inputs(graph)
    if batched is None:
        return False
    sizes = [len(call[batched[0]]) for call in calls]
    return all(
        y.ndim > 1 and len(y) == n for n, found in zip(sizes, outputs, strict=True) for y in found.values()
    )
