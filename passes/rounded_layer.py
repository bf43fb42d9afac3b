"""The weights of one layer rounded as decided: scales, codes, and the kernel that can hold them exactly."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import numpy as np

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import second_moments
from lpcompile.analysis.rounding_loss import column_energy, output_sqnr_db, ratio_db
from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.formats.planned import LEARNED, format_of
from lpcompile.ir import block_matmul
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import mean_shift
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.path_inputs import NO_SAMPLES
from lpcompile.passes.side_paths import keeps_scales, least_beside, side_path_obstacle, with_side_path
from lpcompile.plan import (
    ADAROUND,
    CONCAT_IN,
    MERGED,
    METRIC_ROUNDINGS,
    STATIC,
    SUMMING,
    Kernel,
    LayerPlan,
    WeightPlan,
)
from lpcompile.quant.accumulators import int32_obstacle
from lpcompile.quant.codebook_search import Fitting, fit_codebook
from lpcompile.quant.concat_path import HiddenSample
from lpcompile.quant.input_metric import ROUNDS, InputMetric
from lpcompile.quant.kernel_rounding import round_kernels, tap_correlation
from lpcompile.quant.output_codebook import improved_table
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows

WITHOUT_METRIC = "kernel-sums"  # what becomes of those where inputs are not known


def rounded_layer(
    graph: LpGraph,
    node: Node,
    decided: WeightPlan,
    statistics: Mapping[str, TensorStatistics],
    *,
    metric: InputMetric | None = None,
    rounds: int = ROUNDS,
    rho: float = -1.0,
    learns: bool = True,
    improves_table: bool = False,
    alone: QuantizedTensor | None = None,
    sample: HiddenSample | None = None,
) -> LayerPlan:
    """The layer's plan with codes, and what rounding lost.

    Args:
        graph: float graph; its plan knows the kernel of the layer and its activations.
        node: the layer.
        decided: how its weights are stored.
        statistics: of activations.
        metric: of its rounding errors, for `gptq` and `adaround`; without one they become `kernel-sums`.
        rounds: of sweeps and scales after GPTQ.
        rho: correlation of neighbouring inputs for `kernel-sums`; below 0: measured.
        improves_table: its table was learned from some of its weights, and may be improved; not with `rounds` 0.
        alone: the weights as this decision rounds them without its side path, where they were; None: rounded here.
        sample: of what it reads, for a side path that is concatenated to it.
        learns: False leaves `adaround` at the codes it starts from, which tells formats apart as well.

    Raises:
        FormatError: weights that no format can hold.
    """
    layer = graph.plan.layers[node.name]
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    if not rows.size:
        return replace(layer, kernel=Kernel.FLOAT, reason="it has no weights")
    if not np.isfinite(rows).all():
        raise FormatError(
            "weights are NaN or infinite",
            where=node.name,
            hint="repair the model, or keep the layer with --keep-float",
        )
    if decided.rounding in METRIC_ROUNDINGS and metric is None:
        decided = replace(decided, rounding=WITHOUT_METRIC)
    by_metric = metric if decided.rounding in METRIC_ROUNDINGS else None
    moments = second_moments(node, statistics)
    importance = moments if by_metric is None else by_metric.importance
    if decided.scale_rule == "output-mse" and importance is None:
        decided = replace(decided, scale_rule="mse")
    kernel, reason = _kernel(layer, decided, rows.shape[1])
    lowering = decided.side_lowering or MERGED
    if decided.rank and (
        no := side_path_obstacle(node, kernel, decided, rank=decided.rank, most=inf, lowering=lowering)
        or (NO_SAMPLES if lowering == CONCAT_IN and sample is None else "")
    ):
        decided = decided.alone
        reason = "; ".join(filter(None, (reason, f"no side path: {no}")))
    grouped = decided.granularity.startswith("group")
    fitting = Fitting(
        granularity="group" if grouped else decided.granularity,
        group_size=int(decided.granularity.removeprefix("group")) if grouped else 0,
        rule=decided.scale_rule,
        scale_format=decided.scale_format,
        importance=importance,
        min_scale=least_scale(graph, node, kernel, decided),
    )
    if alone is not None:
        tensor = alone
    elif decided.format == LEARNED:
        tensor, improves_table = fit_codebook(rows, fitting), True
    else:
        tensor = fitting.fit(rows, resolve(decided.format))
    if improves_table:
        if by_metric is not None and rounds:  # what follows rounds 0 makes up for as much
            tensor = improved_table(rows, fitting, by_metric, tensor, rounds=rounds)
        decided = replace(decided, format=tensor.format.name)
    if grouped and not tensor.has_integer_groups:
        decided = replace(decided, granularity="channel")  # one group a row
    if alone is None and decided.rounding == "kernel-sums":
        tensor = keep_kernel_sums(node, rows, tensor, statistics, rho)
    if alone is None and by_metric is not None:
        learned = learns and decided.rounding == ADAROUND
        tensor = by_metric.rounded(rows, tensor, min_scale=fitting.min_scale, rounds=rounds, learned=learned)
    if decided.rank:

        def again(target: F32) -> QuantizedTensor:
            beside = replace(fitting, min_scale=least_beside(rows, fitting.min_scale))
            made = beside.fit(target, tensor.format)
            if by_metric is None:
                return made
            return by_metric.rounded(target, made, min_scale=beside.min_scale, rounds=rounds)

        tensor, decided = with_side_path(rows, tensor, decided, metric, again, sample)
        if decided.rank and not keeps_scales(tensor, fitting.min_scale):
            tensor, decided = tensor.main, decided.alone
    if kernel in SUMMING and (no := int32_obstacle(tensor)):
        kernel, reason = Kernel.WEIGHT_ONLY, no
    return _holding(
        graph,
        node,
        replace(layer, kernel=kernel, reason=reason or layer.reason),
        decided,
        tensor,
        moments,
        by_metric,
    )


def with_codes_of(
    graph: LpGraph,
    node: Node,
    other: LayerPlan,
    statistics: Mapping[str, TensorStatistics],
    metric: InputMetric | None = None,
) -> LayerPlan | None:
    """The layer's plan with the codes of another layer of the same weights; None where its bias would not fit.

    Args:
        graph: as of `rounded_layer`.
        node: the layer.
        other: plan of the other layer, with codes.
        statistics: of activations.
        metric: of the rounding errors of this layer.
    """
    weight, tensor = node.inputs[1], other.tensor
    assert weight is not None
    assert tensor is not None
    layer = graph.plan.layers[node.name]
    kernel, reason = _kernel(layer, other.weight, tensor.codes.shape[1])
    if not keeps_scales(tensor, least_scale(graph, node, kernel, other.weight)):
        return None
    layer = replace(layer, kernel=kernel, reason=reason or layer.reason)
    moments = second_moments(node, statistics)
    by_metric = metric if other.weight.rounding in METRIC_ROUNDINGS else None
    return _holding(graph, node, layer, other.weight, tensor, moments, by_metric)


def _holding(
    graph: LpGraph,
    node: Node,
    layer: LayerPlan,
    decided: WeightPlan,
    tensor: QuantizedTensor,
    moments: F32 | None,
    metric: InputMetric | None,
) -> LayerPlan:
    """A layer's plan with codes, and what they lose.

    Args:
        graph: as of `rounded_layer`.
        node: the layer.
        layer: its plan so far.
        decided: how its weights are stored.
        tensor: the codes.
        moments: (K,) of its inputs, where they are known.
        metric: by which codes were chosen, if by one.
    """
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    signal, noise = column_energy(rows, tensor.dequantize())
    step = _input_step(graph, node, layer.kernel)
    local = None if moments is None else output_sqnr_db(signal, noise, moments, step)
    if metric is not None:
        local = ratio_db(*metric.signal_and_noise(rows, tensor, step))
    return replace(
        layer,
        weight=decided,
        tensor=tensor,
        codes_sha256=tensor.digest(),
        weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
        local_sqnr_db=local,
        bias_correction=None
        if metric is None or not metric.centred
        else mean_shift(rows, tensor, metric.row_means(len(rows))),
    )


def with_rounding(layer: LayerPlan, found: LayerPlan) -> LayerPlan:
    """A layer's plan with the weights of another plan of it."""
    return replace(
        layer,
        weight=found.weight,
        tensor=found.tensor,
        codes_sha256=found.codes_sha256,
        weight_sqnr_db=found.weight_sqnr_db,
        local_sqnr_db=found.local_sqnr_db,
        bias_correction=found.bias_correction,
    )


def keep_kernel_sums(
    node: Node,
    rows: F32,
    tensor: QuantizedTensor,
    statistics: Mapping[str, TensorStatistics],
    rho: float = -1.0,
) -> QuantizedTensor:
    """Codes whose errors sum up to little in every kernel, where inputs of neighbouring taps are alike.

    Args:
        node: the layer; only convolutions have kernels.
        rows: (R, K) weights of some of its channels.
        tensor: their nearest codes.
        statistics: of activations.
        rho: correlation of neighbouring inputs; below 0: measured.
    """
    weight, x = node.inputs[1], node.inputs[0]
    found = None if x is None else statistics.get(x.name)
    rho = rho if rho >= 0 or found is None else found.spatial_correlation
    if node.op != "Conv" or weight is None or rho <= 0:
        return tensor
    window = weight.values.shape[2:]
    return round_kernels(rows, tensor, int(np.prod(window)), tap_correlation(window, rho))


def _input_step(graph: LpGraph, node: Node, kernel: Kernel) -> float:
    """Step of the input's quantiser; 0 where the layer reads floats."""
    x = node.inputs[0]
    plan = None if x is None or kernel not in STATIC else graph.plan.activations.get(x.name)
    return 0.0 if plan is None else plan.scale


def _kernel(layer: LayerPlan, weight: WeightPlan, inputs: int) -> tuple[Kernel, str]:
    """The planned kernel, or one that can hold the weights exactly."""
    fmt = format_of(weight.format)
    if layer.kernel is Kernel.NBITS:
        books = bool(weight.codebooks)
        if reason := block_matmul.obstacle(fmt, weight.granularity, inputs, codebooks=books):
            layer = replace(layer, kernel=Kernel.DYNAMIC, reason=f"its codes do not stay packed: {reason}")
    if layer.kernel in SUMMING and fmt.image() is None:
        return (
            Kernel.WEIGHT_ONLY,
            f"{fmt.name} has no int8 image: its weights are expanded to float when loaded",
        )
    return layer.kernel, layer.reason
