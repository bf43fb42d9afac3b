"""A learned codebook that suits the outputs of its layer: the table of `codebook_search`, improved by the Gram matrix.

GPTQ's loss is a plain sum of squares, sum_k D_k (x_k - q_k)^2, of what it rounds: weights x that already make up for
the errors before them, which are spread more widely than the weights. The best table for these targets is a shortest
path as in `codebook_search`; new codes give new targets. The best table of these rounds is then moved for its codes,
by `codebook_descent`. Every table is judged by what the codes chosen with it lose.
"""

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.codebook import LearnedTable
from lpcompile.quant.codebook_descent import descended
from lpcompile.quant.codebook_search import Fitting, best_levels, half_step_moments
from lpcompile.quant.gptq import rounded_values
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.qtensor import QuantizedTensor

ROUNDS = 3
_TOP = 127


def improved_table(
    rows: F32, fitting: Fitting, metric: InputMetric, start: QuantizedTensor, *, rounds: int
) -> QuantizedTensor:
    """What `fitting.fit` gives for the table that loses least once codes are chosen by the metric.

    Args:
        rows: (R, K) the real weights, all of the layer.
        fitting: as it will be fitted.
        metric: by which it will be rounded.
        start: fitted with the learned table to start from; the result is never worse.
        rounds: of sweeps and scales, as in `InputMetric.rounded`.
    """
    trial = best = _Trial(rows, fitting, metric, start, rounds)
    for _ in range(ROUNDS):
        fmt = table_for_targets(rows, trial.codes, metric)
        if fmt == trial.fitted.format:
            break
        trial = _Trial(rows, fitting, metric, fitting.fit(rows, fmt), rounds)
        best = min(best, trial, key=lambda t: t.loss)
    fmt = descended(rows, best.codes, metric.matrix, damping=metric.damping)
    if fmt != best.fitted.format:
        moved = _Trial(rows, fitting, metric, fitting.fit(rows, fmt), rounds)
        best = min(best, moved, key=lambda t: t.loss)
    return best.fitted


class _Trial:
    """A table, the codes chosen with it, and what they lose."""

    def __init__(
        self, rows: F32, fitting: Fitting, metric: InputMetric, fitted: QuantizedTensor, rounds: int
    ) -> None:
        self.fitted = fitted
        self.codes = metric.rounded(rows, fitted, min_scale=fitting.min_scale, rounds=rounds)
        self.loss = float(row_losses(rows, self.codes, metric.matrix, damping=metric.damping).sum())


def table_for_targets(rows: F32, tensor: QuantizedTensor, metric: InputMetric) -> NumberFormat:
    """The table of least loss for what GPTQ rounded to these codes, each target free to take another code.

    Args:
        rows: (R, K) the real weights, all of the layer.
        tensor: codes by the metric, of a learned table.
        metric: gives the errors before each input, and what its own error costs.
    """
    step = tensor.int8_image()[1].reshape(-1, 1)
    multipliers = None
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        multipliers = tensor.granularity.expand(tensor.scales.codes, tensor.shape)
    else:
        step = step * np.float32(tensor.format.max / _TOP)  # the largest level becomes 127
    relative = step / step.max()
    costs = metric.row_variances(len(rows)) * (relative * relative)
    x = rounded_values(rows, tensor, metric.factors) / step
    found = best_levels(half_step_moments(x, costs, multipliers), multipliers is not None)
    return LearnedTable.from_levels(found)
