"""Round weights again for the inputs that the rounded network really gives, in the order of execution.

The first rounding saw the inputs of the float network. Here each layer's weights are aimed at the float layer's outputs
from the inputs that all rounded layers before it give (the asymmetric term of [li2025]), and its bias takes the
difference of the means, which is the empirical bias correction of [nagel2019, sec. 4.2].

How far weights may follow the mismatch of the samples is chosen on one half of them and judged on the other; where
that does not pay, the layer keeps its codes and only its bias moves.
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.mismatch_moments import Mismatch, MismatchSweeps, in_parts
from lpcompile.analysis.remembered_runs import RememberedRuns
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.analysis.rounded_network import rounded_bytes
from lpcompile.analysis.rounding_loss import column_energy, ratio_db
from lpcompile.analysis.sampled_columns import MOST_ROWS
from lpcompile.analysis.segments import affordable_segments, segments
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.planned_constants import put_norms, put_recurrent, put_tables
from lpcompile.memory import collect_replaced
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.finalists import affordable_finalists, keep_best_finalist
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.passes.path_inputs import path_inputs
from lpcompile.passes.side_paths import rounded_again
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import ADAROUND, CONCAT_IN, METRIC_ROUNDINGS, LayerPlan
from lpcompile.quant.dual_precision import DualPrecisionTensor, Stages
from lpcompile.quant.dual_rounding import ROUNDINGS as DUAL_ROUNDINGS
from lpcompile.quant.dual_rounding import DualRounding, dual_rounded
from lpcompile.quant.eighth_image import of_kind_of
from lpcompile.quant.gram_factor import DAMPING
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.mismatch import retargeted
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.ridge_choice import chosen_ridge, output_distance
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

THREADS = 2
MOST_FACTOR_BYTES = 1 << 27  # of the first rounding that are kept for finalists
BY_MOMENTS = (*METRIC_ROUNDINGS, *(r for r in DUAL_ROUNDINGS if r != "fp8-nearest"))
LEAST_PER_INPUT = 4  # positions of a half
SUITS = "its codes and its bias suit these inputs as they are"
STAYS = "its codes were not chosen by the moments of its inputs, and it has no bias"
SHARED = "its codes are those of other layers as well, and it has no bias"


@dataclass(frozen=True, slots=True)
class RequantizeWeights(Pass):
    """GPTQ once more, against the inputs of the rounded network.

    Attributes:
        segments: parts of the network after which inputs are measured anew; 0: as many as are affordable.
        finalists: further assignments of assign-formats that are tried, too, at most; -1: as many as take little time.
    """

    name: ClassVar[str] = "requantize-weights"
    summary: ClassVar[str] = (
        "round weights again for the inputs that the rounded network gives; empirical biases"
    )
    exact: ClassVar[bool] = False
    many_temporaries: ClassVar[bool] = True
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    segments: int = 0  # 0: as many as are affordable
    finalists: int = -1  # of assign-formats that are tried, too, at most; -1: as many as take little time

    def __post_init__(self) -> None:
        if self.segments < 0 or self.finalists < -1:
            raise ValueError("option 'segments' is at least 0, 'finalists' at least -1")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Choose codes and biases anew, segment by segment."""
        report = PassReport(self.name)
        calibration = ctx.calibration
        rounded = [n for n in graph.layers() if _plan(graph, n.name).tensor is not None]
        if calibration is None or calibration.generated or ctx.observe is None:
            for node in rounded:
                report.skip(node, "no calibration data, so its inputs are not known")
            return report
        names, deciding = [n.name for n in rounded], calibration.deciding
        if sum(m.matrix.nbytes for m in set(ctx.metrics.values())) > MOST_FACTOR_BYTES:
            for metric in ctx.metrics.values():
                metric.let_go()
        path_inputs(graph, ctx, [n for n in names if _plan(graph, n).weight.side_lowering == CONCAT_IN])
        measure = NetworkNoise(graph, ctx)
        most = self.finalists
        if most < 0 and ctx.finalists:
            most = affordable_finalists(graph, deciding, names)
        several = bool(ctx.finalists) and most > 0
        runs = RememberedRuns(ctx.observe, in_parts(deciding, _parts(deciding))) if several else None

        def again(told: PassReport) -> None:
            before = graph.plan
            if runs is not None:
                runs.restart()
            _Requantizing(graph, ctx, deciding, names, told, runs).run(names, self.segments)
            collect_replaced(rounded_bytes(graph.plan))
            keep_if_better(graph, ctx, before, told, measure=measure)

        again(report)
        if ctx.finalists:
            keep_best_finalist(graph, ctx, again, most, report, measure)
        return report


class _Requantizing:
    """One run over the layers of a graph; plans are written as it goes."""

    def __init__(
        self,
        graph: LpGraph,
        ctx: PassContext,
        calls: Sequence[Feeds],
        names: Sequence[str],
        report: PassReport,
        runs: RememberedRuns | None,
    ) -> None:
        assert ctx.observe is not None
        self.graph, self.ctx, self.calls, self.report = graph, ctx, calls, report
        self.shared = sharing_layers(graph, names)
        activations = with_rounded_activations(graph, graph.plan.activations, dynamic=False)
        put_norms(activations, graph.plan.norms)
        put_tables(activations, graph.plan.tables)
        put_recurrent(activations, graph.plan.recurrent)
        halves = _parts(calls)
        most = max(MOST_ROWS // (2 * halves), LEAST_PER_INPUT * widest(graph))
        self.sweeps = MismatchSweeps(
            graph,
            activations,
            ctx.observe,
            calls,
            parts=halves,
            float_runs=runs,
            layers=names,
            most_rows=most,
            seed=ctx.seed,
        )
        self.shares = [len(part) / len(calls) for part in in_parts(calls, halves)]

    def run(self, names: Sequence[str], most: int) -> None:
        """Every layer, in segments."""
        parts = segments(self.graph, names, most or affordable_segments(self.graph, self.calls))
        # Halves, and the layers of a segment, are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            for done, part in enumerate(parts):
                self.ctx.progress("rounding again", done, len(parts))
                wanted = [n for n in part if self._moves(n)]
                found = self.sweeps.by_parts(wanted, pool.map) if wanted else []
                left_out = {name: reason for f in found for name, reason in f.left_out.items()}
                known = [n for n in wanted if n not in left_out]
                plans = pool.map(lambda n: self._layer(n, [f[n] for f in found]), known)  # noqa: B023
                for name, (plan, what, after) in zip(known, plans, strict=True):
                    if what:
                        self.graph.plan = self.graph.plan.with_layer(name, plan)
                        self.report.change(name, what, after=after)
                    else:
                        self.report.skip(name, SUITS)
                for name in part:
                    if name not in wanted:
                        self.report.skip(name, SHARED if name in self.shared else STAYS)
                    elif name in left_out:
                        self.report.skip(name, left_out[name])
                    self._patch(name)
        self.ctx.progress("rounding again", len(parts), len(parts))

    def _moves(self, name: str) -> bool:
        plan = _plan(self.graph, name)
        chooses = plan.weight.rounding in BY_MOMENTS and name not in self.shared
        return chooses or not bias_obstacle(self.graph.node(name), plan.kernel)

    def _layer(self, name: str, halves: Sequence[Mismatch]) -> tuple[LayerPlan, str, str]:
        """The layer's new plan, what was done, and how much changed."""
        node, plan = self.graph.node(name), _plan(self.graph, name)
        assert plan.tensor is not None
        rows = _rows(node)
        biased = not bias_obstacle(node, plan.kernel)
        moments = [_moments(h, biased) for h in halves]
        whole, mean, rounded_mean = self._together(halves, biased)
        tensor, aimed = plan.tensor, "bias alone"
        known = self.ctx.metrics.get(name)
        if plan.weight.rounding in BY_MOMENTS and name not in self.shared:
            ridge = chosen_ridge(rows, moments)
            target = rows if ridge is None else retargeted(rows, *whole, ridge=ridge)
            damping = DAMPING if known is None else known.damping
            if isinstance(tensor, DualPrecisionTensor):
                how = DualRounding.of(plan.weight.rounding, damping)
                stages = Stages.of(target, tensor.group_size, tensor.eighth)
                floor = least_scale(self.graph, node, plan.kernel, plan.weight)
                tried: list[QuantizedTensor] = [
                    of_kind_of(tensor, dual_rounded(stages, whole[0], how), floor)
                ]
            else:
                metric = InputMetric(whole[0], rounded_mean, biased, damping)
                floor = least_scale(self.graph, node, plan.kernel, plan.weight)
                learned, held = plan.weight.rounding == ADAROUND, bool(self.graph.plan.scales_held(name))
                tried = (
                    [metric.rounded(target, tensor, min_scale=floor, learned=learned, keeps_scales=held)]
                    if tensor.side is None
                    else rounded_again(
                        target, tensor, plan.weight, metric, floor, self.ctx.path_inputs.get(name)
                    )
                )
            best = min([tensor, *tried], key=lambda t: output_distance(t.dequantize(), *whole))
            if best is not tensor:
                tensor, aimed = best, "as it is" if ridge is None else f"ridge {ridge:g}"
        shift = None
        if biased:
            shift = _shift(tensor.dequantize(), mean, _by_row(rounded_mean, len(rows)))
        changed = int((tensor.codes != plan.tensor.codes).sum())
        if tensor is plan.tensor and _equal(shift, plan.bias_correction):
            return plan, "", ""
        signal, noise = column_energy(rows, tensor.dequantize())
        plan = replace(
            plan,
            tensor=tensor,
            codes_sha256=tensor.digest(),
            bias_correction=shift,
            weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
            local_sqnr_db=plan.local_sqnr_db
            if known is None
            else ratio_db(*known.signal_and_noise(rows, tensor, known.step)),
        )
        return plan, f"rounded again ({aimed})", f"{changed} of {rows.size} codes changed"

    def _together(self, halves: Sequence[Mismatch], centred: bool) -> tuple[tuple[F32, F32], F64, F64]:
        """H and D, E[W x] and E[x^] of all samples."""
        shares = list(zip(self.shares, halves, strict=True))
        matrix, cross = (
            np.sum([np.float32(s) * getattr(h, part) for s, h in shares], axis=0)
            for part in ("matrix", "cross")
        )
        mean, rounded = (
            np.sum([s * getattr(h, part) for s, h in shares], axis=0) for part in ("mean", "rounded_mean")
        )
        whole = Mismatch(matrix, cross, mean, rounded, sum(h.rows for h in halves))
        return _moments(whole, centred), mean, rounded

    def _patch(self, name: str) -> None:
        node, plan = self.graph.node(name), _plan(self.graph, name)
        assert plan.tensor is not None
        bias = None if plan.bias_correction is None else planned_bias(node, plan)
        self.sweeps.patch(name, plan.tensor.dequantize(), bias)


def _parts(calls: Sequence[Feeds]) -> int:
    """Halves, where there is more than one call."""
    return min(2, max(1, len(calls)))


def _moments(found: Mismatch, centred: bool) -> tuple[F32, F32]:
    if not centred:
        return found.matrix, found.cross
    rounded = found.rounded_mean[:, None, :]
    matrix = found.matrix - found.rounded_mean[:, :, None] * rounded
    at = np.arange(matrix.shape[1])
    matrix[:, at, at] = np.maximum(matrix[:, at, at], 0)  # inputs that never change
    cross = found.cross - found.mean[:, None] * _by_row(found.rounded_mean, len(found.mean))
    return matrix.astype(np.float32), cross.astype(np.float32)


def _by_row(means: F64, rows: int) -> F64:
    """Means of inputs (G, K) for each row of a layer's weights, (C_out, K)."""
    return np.repeat(means, rows // len(means), axis=0)


def _shift(rounded: F32, mean: F64, rounded_mean: F64) -> F32:
    """What makes the mean outputs of rounded weights those of the float layer, (C_out,).

    Args:
        rounded: W^, (C_out, K).
        mean: E[W x], (C_out,).
        rounded_mean: E[x^] of each row, (C_out, K).
    """
    return np.asarray(mean - np.einsum("ok,ok->o", rounded, rounded_mean), np.float32)


def sharing_layers(graph: LpGraph, names: Sequence[str]) -> frozenset[str]:
    """Layers whose codes the file holds once for several of them: to move those of one would make it hold more."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault((graph.node(name).inputs[1], _plan(graph, name).codes_sha256), []).append(name)
    return frozenset(n for found in groups.values() if len(found) > 1 for n in found)


def widest(graph: LpGraph) -> int:
    """The most products that an output of a rounded layer sums."""
    plans = graph.plan.layers
    return max((p.tensor.shape[1] for p in plans.values() if p.tensor is not None), default=1)


def _equal(one: F32 | None, other: F32 | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _plan(graph: LpGraph, name: str) -> LayerPlan:
    return graph.plan.layers.get(name, LayerPlan())


def _rows(node: Node) -> F32:
    weight = node.inputs[1]
    assert weight is not None
    return np.asarray(to_rows(node.op, weight.values), np.float32)
