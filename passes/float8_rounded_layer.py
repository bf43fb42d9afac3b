"""The weights of one layer in INT4 that is read as FP8: both scales, codes, the correction of the bias."""

from dataclasses import replace
from math import prod

import numpy as np

from lpcompile.analysis.rounding_loss import column_energy, ratio_db
from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, Real
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import mean_shift
from lpcompile.plan import FLOAT8_FORMAT, LayerPlan
from lpcompile.quant.assumed_moments import assumed_gram
from lpcompile.quant.dual_precision import Stages
from lpcompile.quant.dual_rounding import DualRounding, dual_factors, dual_rounded
from lpcompile.quant.eighth_weights import eighth_weights
from lpcompile.quant.gram_factor import GramFactor
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows


def float8_rounded_layer(
    node: Node,
    layer: LayerPlan,
    metric: InputMetric | None,
    how: DualRounding,
    eighth: str,
    factors: GramFactor | None = None,
) -> LayerPlan:
    """The layer's plan with codes, and what rounding lost.

    Args:
        node: the layer.
        layer: its plan; group size of the granularity.
        metric: of its rounding errors; None where inputs are not known: those of a convolution are then assumed.
        how: codes are chosen.
        eighth: the 8-bit format of `quant.dual_precision.FULL_SCALES`.
        factors: of the metric, where another layer has them already.

    Raises:
        FormatError: weights that no format can hold.
    """
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    if not np.isfinite(rows).all():
        raise FormatError(
            "weights are NaN or infinite",
            where=node.name,
            hint="repair the model, or keep the layer with --keep-float",
        )
    gram = None if metric is None else metric.matrix
    if gram is None and node.op == "Conv":
        gram = assumed_gram(weight.dims[1], prod(weight.dims[2:]))
    if layer.weight.format == FLOAT8_FORMAT:
        tensor: QuantizedTensor = _wide(rows, eighth, gram, how, factors)
    else:
        tensor = dual_rounded(Stages.of(rows, group_size(layer), eighth), gram, how, factors)
    values = tensor.dequantize()
    signal, noise = column_energy(rows, values)
    centred = metric is not None and metric.centred
    return replace(
        layer,
        tensor=tensor,
        codes_sha256=tensor.digest(),
        weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
        local_sqnr_db=None if metric is None else _output_sqnr_db(rows, values, metric),
        bias_correction=mean_shift(rows, tensor, metric.row_means(len(rows)))
        if metric is not None and centred
        else None,
    )


def _wide(
    rows: F32, eighth: str, gram: Real | None, how: DualRounding, factors: GramFactor | None
) -> QuantizedTensor:
    if gram is None or how.rule == "nearest":
        return eighth_weights(rows, eighth)
    return eighth_weights(rows, eighth, factors or dual_factors(gram, how, 1))


def group_size(layer: LayerPlan) -> int:
    """Inputs that share a scale, of a layer in groups; else 1, as no order of groups is asked for."""
    size = layer.weight.granularity.removeprefix("group")
    return int(size) if size.isdecimal() else 1


def _output_sqnr_db(rows: F32, values: F32, metric: InputMetric) -> float | None:
    power, noise = (_power(x, metric) for x in (rows, values - rows))
    if metric.centred:  # the mean of the error goes into the bias, that of the signal counts
        w = rows.reshape(len(metric.matrix), -1, rows.shape[1])
        power += float(np.square(np.einsum("grk,gk->gr", w, metric.mean)).sum())
    return ratio_db(power, noise)


def _power(rows: F32, metric: InputMetric) -> float:
    """Sum over outputs of E|r x|^2."""
    w = rows.reshape(len(metric.matrix), -1, rows.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.sum((w @ metric.matrix) * w, dtype=np.float64))
    if np.isfinite(found):
        return found
    exact = w.astype(np.float64)
    return float(np.sum((exact @ metric.matrix) * exact))
