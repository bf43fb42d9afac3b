"""Integers in place of FP8: the same INT4 codes in the forms that CPUs without FP8 run fast.

After `dual-precision` every layer gets one of these, and the report says which and why:

    integer   inputs of 8 bits, weights the int8 image of the FP8 numbers that the codes stand for (quant.eighth_image)
    packed    MatMulNBits on the codes and their group scales, of matrices with few rows
    float     the FP8 numbers expanded to floats when the model is loaded, inputs float: where neither pays or fits

The file keeps codes and scales of 4 bits; weights that FP8 has in 8 bits are rounded to int8 from the floats. What
each form leaves of a layer's outputs is measured beside FP8. docs/decisions/0049
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.analysis.input_moments import second_moments
from lpcompile.analysis.layer_kernels import MATRICES as PRODUCTS
from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.errors import DecisionsError, PassError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import bias_obstacle, mean_shift
from lpcompile.passes.form_losses import FormLoss, form_losses
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.quantize_activations import QuantizeActivations
from lpcompile.passes.rounded_layer import rounded_layer
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import DUAL_SCALES, FLOAT8_FORMAT, STATIC, Kernel, LayerPlan, QuantPlan, WeightPlan
from lpcompile.quant.accumulators import fits_any_weights
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.eighth_image import CodeBlocks, EighthImage, code_blocks, eighth_image
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

INTEGER = (*STATIC, Kernel.DYNAMIC)
CLEARLY_DB = 1.0
FORMS = {
    Kernel.INTEGER: "integer form",
    Kernel.FLOAT_OUT: "integer form",
    Kernel.DYNAMIC: "integer form",
    Kernel.NBITS: "packed form",
    Kernel.WEIGHT_ONLY: "float form",
}


@dataclass(frozen=True, slots=True)
class RunOnIntegers(Pass):
    """A form without FP8 for every layer of `dual-precision`.

    Attributes:
        matrices: of MatMul and Gemm: auto, integer, or packed (MatMulNBits wherever it can hold their blocks).
        cost: time: what the target's table says is faster as floats stays float; none: integers wherever possible.
        least-db: a layer of whose outputs a form would leave less, and clearly less than FP8 does, takes another.
    """

    name: ClassVar[str] = "run-on-integers"
    summary: ClassVar[str] = (
        "integer kernels for int4 weights that are read as FP8: fast on CPUs, which lack FP8"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    matrices: str = "auto"
    cost: str = "time"
    least_db: float = 20.0

    def __post_init__(self) -> None:
        option_checks.one_of("matrices", self.matrices, ("auto", "integer", "packed"))
        option_checks.one_of("cost", self.cost, ("time", "none"))
        option_checks.not_negative("least-db", self.least_db)

    def planned_weights(self) -> WeightPlan:
        """Of weights that FP8 has in 8 bits."""
        return WeightPlan("int8", "channel", "output-mse", "float32", "kernel-sums")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan forms, ranges of activations and images of weights, or carry out what was decided."""
        report, exact = PassReport(self.name), graph.plan
        if any(isinstance(v.tensor, (EighthImage, CodeBlocks)) for v in exact.layers.values()):
            raise PassError(f"pass '{self.name}' has run before", hint="leave it out once")
        rounded = [layer for layer in exact.layers.values() if layer.tensor is not None]
        if not rounded:
            for node in graph.layers():
                report.skip(node, exact.layers.get(node.name, LayerPlan()).reason)
            return report
        if not any(_is_dual(layer) for layer in rounded):
            raise PassError(
                f"pass '{self.name}' is for layers of 'dual-precision', and there are none",
                hint="put dual-precision before it",
            )
        decided = ctx.decisions if ctx.decisions is not None and has_forms(ctx.decisions) else None
        narrow = next(
            (v.weight for v in exact.layers.values() if isinstance(v.tensor, DualPrecisionTensor)), None
        )
        inner = replace(ctx, decisions=decided, weights=narrow)
        if decided is not None:
            QuantizeActivations().run(graph, inner)
            _check_activations(graph)
            losses = self._formed(graph, inner, exact)
        else:
            losses = self._chosen(graph, inner, exact)
        ctx.statistics, ctx.ranges = inner.statistics, inner.ranges
        for node in graph.layers():
            _tell(graph, node, losses.get(node.name), report, decided=decided is not None)
        return report

    def _chosen(self, graph: LpGraph, ctx: PassContext, exact: QuantPlan) -> dict[str, FormLoss]:
        """Forms by kernels and times, and again for layers whose form loses too much."""
        matmul = "static" if self.matrices == "integer" else "auto"
        how = QuantizeActivations(matmul=matmul, cost=self.cost)
        packed = {n.name: "" for n in graph.layers() if self.matrices == "packed" and _packs(n, exact, ctx)}
        how.decided(graph, ctx, packed)
        for name in packed:
            _take(graph, name, Kernel.NBITS, "as asked for")
        losses = self._formed(graph, ctx, exact)
        lossy = {k: v for k, v in losses.items() if self._is_lossy(v)}
        if not lossy:
            return losses
        unpacked = [k for k in lossy if graph.plan.layers[k].kernel is Kernel.NBITS]
        floats = {k: _why_not(lossy[k]) for k in lossy if k not in unpacked}
        if floats:
            how.decided(graph, ctx, {**packed, **floats})
            for name in packed:
                _take(graph, name, Kernel.NBITS, "as asked for")
        for name in unpacked:
            _take(graph, name, Kernel.DYNAMIC, f"not packed: {_why_not(lossy[name])}")
        return self._formed(graph, ctx, exact)

    def _is_lossy(self, loss: FormLoss) -> bool:
        return loss.after is not None and loss.after < self.least_db and loss.lost_db > CLEARLY_DB

    def _formed(self, graph: LpGraph, ctx: PassContext, exact: QuantPlan) -> dict[str, FormLoss]:
        """Weights and biases for the kernels that are planned; what each leaves."""
        for node in graph.layers():
            plan = self._form(graph, node, exact, ctx)
            graph.plan = graph.plan.with_layer(node.name, plan)
        return form_losses(graph, ctx, exact)

    def _form(self, graph: LpGraph, node: Node, exact: QuantPlan, ctx: PassContext) -> LayerPlan:
        before, now, x = exact.layers[node.name], graph.plan.layers[node.name], node.inputs[0]
        tensor = before.tensor
        if tensor is None or now.kernel is Kernel.FLOAT:
            return before if now.kernel is Kernel.FLOAT and tensor is None else now
        read = before.kernel is Kernel.FLOAT8 and x is not None
        now = replace(now, float8_input=exact.activations[x.name].scale if read and x is not None else 0.0)
        kernel, reason = now.kernel, now.reason
        if kernel in INTEGER and not fits_any_weights(tensor.shape[1]):
            kernel = Kernel.WEIGHT_ONLY
            reason = f"{tensor.shape[1]} products of 8 bits could overflow the int32 accumulator"
        kept = replace(before, kernel=kernel, reason=reason, float8_input=now.float8_input)
        if kernel is Kernel.WEIGHT_ONLY:
            return kept
        rows = to_rows(node.op, node.inputs[1].values)  # type: ignore[union-attr]
        if not isinstance(tensor, DualPrecisionTensor):
            graph.plan = graph.plan.with_layer(node.name, now)
            made = rounded_layer(graph, node, self.planned_weights(), ctx.statistics)
            return replace(made, bias_correction=_shift(node, made.kernel, None, rows, made, ctx))
        if kernel is Kernel.NBITS:
            found: DualPrecisionTensor = code_blocks(tensor)
        else:
            moments = second_moments(node, ctx.statistics)
            found = eighth_image(tensor, moments, least_scale(graph, node, kernel))
        made = replace(kept, tensor=found, codes_sha256=found.digest())
        shift = _shift(node, before.kernel, before.bias_correction, tensor.dequantize(), made, ctx)
        return replace(made, bias_correction=shift)


def has_forms(plan: QuantPlan) -> bool:
    """Whether decisions are those of this pass: a layer has a kernel without FP8, or weights were rounded for it."""
    return any(v.kernel in (*INTEGER, Kernel.NBITS) or v.float8_input for v in plan.layers.values())


def _is_dual(layer: LayerPlan) -> bool:
    return layer.tensor is not None and layer.weight.scale_format == DUAL_SCALES


def _packs(node: Node, exact: QuantPlan, ctx: PassContext) -> bool:
    """Whether MatMulNBits can hold a layer's codes."""
    layer = exact.layers[node.name]
    if node.op not in PRODUCTS or not isinstance(layer.tensor, DualPrecisionTensor) or ctx.target is None:
        return False
    rows = layer.tensor.shape
    return not ctx.target.packed_obstacle(resolve("int4"), layer.weight.granularity, rows[1])


def _take(graph: LpGraph, name: str, kernel: Kernel, reason: str) -> None:
    graph.plan = graph.plan.with_layer(name, replace(graph.plan.layers[name], kernel=kernel, reason=reason))


def _why_not(loss: FormLoss) -> str:
    return f"as integers {_db(loss.after)} of its outputs would be left, as FP8 {_db(loss.before)}"


def _db(value: float | None) -> str:
    return "all" if value is None else f"{value:.1f} dB"


def _shift(
    node: Node, kernel: Kernel, before: F32 | None, rows: F32, plan: LayerPlan, ctx: PassContext
) -> F32 | None:
    """The correction of the bias, with what the mean inputs make of the step from `rows` to the plan's weights."""
    if bias_obstacle(node, kernel):
        return before
    mean = mean_inputs(node, ctx.statistics, ctx.metrics)
    if mean is None or plan.tensor is None:
        return before
    step = mean_shift(rows, plan.tensor, mean)
    return step if before is None else np.asarray(before + step, np.float32)


def _tell(graph: LpGraph, node: Node, loss: FormLoss | None, report: PassReport, *, decided: bool) -> None:
    """The reason of a layer, and the pass's report of it."""
    plan = graph.plan.layers[node.name]
    if plan.kernel is Kernel.FLOAT:
        report.skip(node, plan.reason)
        return
    form, after = FORMS[plan.kernel], None if loss is None else loss.after
    figures = "" if loss is None else f", {_db(after)} of its outputs left, {_db(loss.before)} as FP8"
    if not decided:
        reason = f"{form}{figures}: {plan.reason}" if plan.reason else f"{form}{figures}"
        plan = replace(plan, reason=reason)
    graph.plan = graph.plan.with_layer(node.name, replace(plan, local_sqnr_db=after or plan.local_sqnr_db))
    if plan.kernel is Kernel.WEIGHT_ONLY:
        report.skip(node, plan.reason)
    else:
        before = "" if loss is None else f"{_db(loss.before)} as FP8"
        report.change(node, f"{form}, kernel {plan.kernel.value}", before, "" if loss is None else _db(after))


def _check_activations(graph: LpGraph) -> None:
    """Whether what layers read, as decided, is what their kernels multiply.

    Raises:
        DecisionsError: one reads integers as FP8, or FP8 as integers.
    """
    for node in graph.layers():
        kernel, x = graph.plan.layers[node.name].kernel, node.inputs[0]
        plan = graph.plan.activations.get(x.name) if x is not None else None
        if plan is None or kernel not in (*STATIC, Kernel.FLOAT8):
            continue
        if (kernel is Kernel.FLOAT8) != (plan.format == FLOAT8_FORMAT):
            raise DecisionsError(
                f"layer '{node.name}' has kernel '{kernel}', and its input is {plan.format}",
                hint='set kernel = "weight-only"',
            )
