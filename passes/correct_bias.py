"""Take the mean error that rounding the weights causes out of every channel, analytically.

W^ x = W x + dW x with dW = W^ - W, so a channel is off by dW E[x] on average: b' = b - dW E[x]. E[x] comes
from the calibration sweep. Where inputs are far from zero on average (after Relu) this mean is most of the
error. [nagel2019, sec. 4.2] A mean that few loud samples make can move the many quiet ones, so that the network
as a whole is measured, and a correction by which it clearly loses undone.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.macs import macs_on
from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.keep_if_better import keep_if_better
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import AT_RUN_TIME, Kernel
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

MOST_MACS = 5e9  # of the calls that judge
MOST_CALLS, LEAST_CALLS = 8, 2


@dataclass(frozen=True, slots=True)
class CorrectBias(Pass):
    """Bias correction for Conv and Gemm."""

    name: ClassVar[str] = "correct-bias"
    summary: ClassVar[str] = "take the mean error of rounded weights out of the bias"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan a correction of every bias whose layer was rounded."""
        report, before = PassReport(self.name), graph.plan
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name)
            if layer is None or layer.tensor is None:
                continue
            if layer.bias_correction is not None:
                report.skip(node, "its bias was corrected when its weights were rounded")
                continue
            if reason := bias_obstacle(node, layer.kernel):
                report.skip(node, reason)
                continue
            weight = node.inputs[1]
            mean = mean_inputs(node, ctx.statistics, ctx.metrics)
            if mean is None or weight is None:
                report.skip(node, "no calibration data, so the mean of its input is not known")
                continue
            shift = mean_shift(to_rows(node.op, weight.values), layer.tensor, mean)
            graph.plan = graph.plan.with_layer(node.name, replace(layer, bias_correction=shift))
            report.change(node, "bias corrected", after=f"by {float(np.abs(shift).max()):.3g} at most")
        if ctx.calibration is not None and graph.plan is not before:
            measure = NetworkNoise(graph, ctx, _judging_calls(graph, ctx.calibration.deciding[0]))
            keep_if_better(graph, ctx, before, report, stays="biases stay", errors=1, measure=measure)
        return report


def _judging_calls(graph: LpGraph, call: Feeds) -> int:
    return int(np.clip(MOST_MACS / max(1, macs_on(graph, call)), LEAST_CALLS, MOST_CALLS))


def mean_shift(rows: F32, tensor: QuantizedTensor, mean: F64) -> F32:
    """(C_out,) what a bias is to be raised by, so that rounding a layer's weights does not move its mean outputs.

    Args:
        rows: (C_out, K) the real weights.
        tensor: as they were rounded.
        mean: E[x] of each row, (C_out, K).
    """
    return np.asarray(-np.einsum("ok,ok->o", tensor.dequantize() - rows, mean), np.float32)


def bias_obstacle(node: Node, kernel: Kernel) -> str:
    """Why the bias of a layer cannot take a correction; empty where it can."""
    if node.op == "MatMul":
        return "MatMul has no bias of its own"
    if node.op == "ConvTranspose":
        return "outputs of ConvTranspose sum different numbers of products"
    if kernel in AT_RUN_TIME:
        return "its range is measured at run time, there are no calibrated means"
    if any(node.attrs.get(k, 0) for k in ("transA", "transB")) or node.attrs.get("alpha", 1) != 1:
        return "the Gemm is not in the form x @ W + b"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return ""
    weight = node.inputs[1]
    assert weight is not None
    outputs = (weight.values.shape[0 if node.op == "Conv" else -1],)
    if not bias.is_constant or bias.values.shape != outputs or node.attrs.get("beta", 1) != 1:
        return "its bias is not one constant an output channel"
    return ""
