"""Side paths brought to the form that is concatenated to their layers: ranges of h from samples, codes chosen again."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lpcompile.analysis.hidden_reach import HiddenReach, PathInput, hidden_reach
from lpcompile.analysis.layer_inputs import InputReading, input_reading
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.rounded_layer import with_tensor
from lpcompile.passes.side_paths import damped_matrix, output_error
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC, LayerPlan
from lpcompile.quant.concat_path import concat_path
from lpcompile.quant.merged_rounding import merged_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows

NO_BETTER = "8 bits for what a path gives and for its factors repair nothing"


def with_concat_paths(graph: LpGraph, ctx: PassContext, plans: Mapping[str, LayerPlan]) -> dict[str, LayerPlan]:
    """The plans with paths that are concatenated to their layers; without a path where nothing is gained by one.

    Args:
        graph: its plan holds the layers as they are without a path; in a replay, with it.
        ctx: samples and metrics.
        plans: with paths that stay apart, by name of the layer.
    """
    paths = {}
    for name, plan in plans.items():
        node = graph.node(name)
        reading, x = input_reading(node), node.inputs[0]
        if plan.tensor is not None and plan.tensor.side is not None and isinstance(reading, InputReading):
            assert x is not None
            rounded = graph.plan.activations[x.name] if plan.kernel in STATIC else None
            paths[name] = PathInput(reading, rounded, plan.tensor.side.a)
    if not paths or ctx.calibration is None or ctx.observe is None:
        return {name: replace(plan, tensor=_main(plan)) for name, plan in plans.items()}
    found = hidden_reach(
        graph,
        paths,
        ctx.observe,
        ctx.calibration.deciding,
        lambda done, total: ctx.progress("measuring side paths", done, total),
    )
    return {name: _concatenated(graph, ctx, name, plan, found.get(name)) for name, plan in plans.items()}


def _main(plan: LayerPlan) -> QuantizedTensor | None:
    return None if plan.tensor is None else plan.tensor.main


def _concatenated(
    graph: LpGraph, ctx: PassContext, name: str, plan: LayerPlan, reach: HiddenReach | None
) -> LayerPlan:
    tensor, node = plan.tensor, graph.node(name)
    weight, metric = node.inputs[1], ctx.metrics.get(name)
    assert weight is not None
    path = None
    if tensor is not None and tensor.side is not None and reach is not None:
        path = concat_path(tensor.side, reach.most)
    if tensor is None or path is None or reach is None:
        return replace(plan, tensor=_main(plan))
    rows = np.asarray(to_rows(node.op, weight.values), np.float32)
    best = replace(tensor.main, side=path)
    error = output_error(rows, None if metric is None else damped_matrix(metric))
    if metric is not None:
        best = min([best, merged_codes(rows, best, metric.factors)], key=error)
        alone = graph.plan.layers[name].tensor
        if ctx.decisions is None and alone is not None and alone.side is None:
            scale = best.int8_image()[1].reshape(-1, 1).astype(np.float64)
            noise = reach.step**2 / 12 * float(np.square(path.b * scale).sum())
            if error(best) + noise >= error(alone):
                return replace(plan, tensor=tensor.main)
    return with_tensor(graph, node, plan, best, ctx.statistics, metric)
