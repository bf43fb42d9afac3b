"""GPTQ in several orders of the inputs, the best codes of each row kept.

GPTQ is greedy: which inputs come late, and so make up for the others, is a guess. Orders drawn near that of falling
second moments give codes that are as good on the mean and differ from row to row; rows are independent.
"""

from dataclasses import replace

import numpy as np

from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.coordinate_descent import SWEEPS, sweep
from lpcompile.quant.gptq import gptq_factored
from lpcompile.quant.gram_factor import DAMPING, factor
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index

DRAWN = 8
_SPREAD = 0.5  # standard deviation of the logarithm of what a second moment is multiplied by


def best_of_orders(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    drawn: int = DRAWN,
    sweeps: int = SWEEPS,
    damping: float = DAMPING,
    seed: int = 0,
) -> QuantizedTensor:
    """The tensor with the best codes found for each row, its own among them; no row's damped error rises.

    Args:
        rows: the real weights, (R, K) float32.
        tensor: format, scales and codes to compare with.
        gram: (G, K, K) E[x x^T].
        groups: (R,) the matrix of each row; None for equal runs of rows.
        drawn: number of orders.
        sweeps: of coordinate descent after each.
        damping: added to the diagonals, relative to their mean.
        seed: of the orders.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    rng = np.random.default_rng(seed)
    least = row_losses(rows, tensor, gram, groups, damping=damping)
    sizes = np.diagonal(gram, axis1=1, axis2=2)
    for _ in range(drawn):
        drawn_sizes = sizes * np.exp(_SPREAD * rng.standard_normal(sizes.shape))
        order = np.argsort(-drawn_sizes, axis=1, kind="stable")
        found = gptq_factored(rows, tensor, factor(gram, damping, order), groups)
        found = sweep(rows, found, gram, groups, sweeps=sweeps, damping=damping)
        losses = row_losses(rows, found, gram, groups, damping=damping)
        better = losses < least
        least[better] = losses[better]
        tensor = replace(tensor, codes=np.where(better[:, None], found.codes, tensor.codes))
    return tensor
