"""Codes of a layer chosen once more, under scales that were changed after they were searched."""

from dataclasses import replace

import numpy as np

from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.formats.arrays import F32
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import mean_shift
from lpcompile.passes.rounded_layer import keep_kernel_sums
from lpcompile.pipeline import PassContext
from lpcompile.plan import METRIC_ROUNDINGS, LayerPlan
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows


def layer_rows(node: Node) -> F32:
    """(C_out, K) the real weights of a layer."""
    weight = node.inputs[1]
    assert weight is not None
    return np.asarray(to_rows(node.op, weight.values), np.float32)


def rounded_again(node: Node, plan: LayerPlan, scaled: QuantizedTensor, ctx: PassContext) -> LayerPlan:
    """The layer's plan with codes for other scales, by its own rounding; a corrected bias follows.

    Args:
        node: the layer.
        plan: as it was rounded.
        scaled: format and scales; its codes do not matter.
        ctx: metrics of rounding errors and statistics of activations.
    """
    before, rows = plan.tensor, layer_rows(node)
    assert before is not None
    metric = ctx.metrics.get(node.name)
    if plan.weight.rounding in METRIC_ROUNDINGS and metric is not None:
        found = metric.rounded(rows, scaled, rounds=0)
    else:
        found = nearest_codes(rows, scaled)
        if plan.weight.rounding == "kernel-sums":
            found = keep_kernel_sums(node, rows, found, ctx.statistics)
    shift, mean = plan.bias_correction, mean_inputs(node, ctx.statistics, ctx.metrics)
    if shift is not None and mean is not None:
        shift = shift - mean_shift(rows, before, mean) + mean_shift(rows, found, mean)
    return replace(plan, tensor=found, codes_sha256=found.digest(), bias_correction=shift)
