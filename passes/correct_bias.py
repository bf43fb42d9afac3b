"""Take the mean error that rounding the weights causes out of every channel, analytically.

W^ x = W x + dW x with dW = W^ - W, so a channel is off by dW E[x] on average: b' = b - dW E[x]. E[x] comes from the
calibration sweep. Where inputs are far from zero on average (after Relu) this mean is most of the error.
[nagel2019, sec. 4.2]
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile.analysis.input_moments import row_means
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport


@dataclass(frozen=True, slots=True)
class CorrectBias(Pass):
    """Bias correction for Conv and Gemm."""

    name: ClassVar[str] = "correct-bias"
    summary: ClassVar[str] = "take the mean error of rounded weights out of the bias"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan a correction of every bias whose layer was rounded."""
        report = PassReport(self.name)
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name)
            if layer is None or layer.tensor is None or layer.bias_correction is not None:
                continue
            if node.op not in ("Conv", "Gemm"):
                report.skip(node, f"{node.op} has no bias of its own")
                continue
            if layer.kernel is Kernel.DYNAMIC:
                report.skip(node, "its range is measured at run time, there are no calibrated means")
                continue
            mean = row_means(node, ctx.statistics)
            weight = node.inputs[1]
            if mean is None or weight is None:
                report.skip(node, "no calibration data, so the mean of its input is not known")
                continue
            rounding = layer.tensor.dequantize().astype(np.float64) - to_rows(node.op, weight.values)
            shift = np.asarray(-(rounding * mean).sum(1), np.float32)
            graph.plan = graph.plan.with_layer(node.name, replace(layer, bias_correction=shift))
            report.change(node, "bias corrected", after=f"by {float(np.abs(shift).max()):.3g} at most")
        return report
