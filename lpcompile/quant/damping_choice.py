"""How much a Gram matrix is to be damped: chosen on one half of the samples, judged on the other.

Without damping, codes fit what is particular to the samples; with much, they forget how inputs correlate. Early
convolutions see very many positions and want a thousandth of the mean diagonal, wide matrix products on few samples a
tenth: no one figure serves both.
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import gptq_factored
from lpcompile.quant.gram_factor import DAMPING, factor
from lpcompile.quant.gram_loss import row_losses

DAMPINGS = (0.001, 0.006, 0.03, 0.15)
FORMAT = "fixp4"  # the coarsest usual one; others want the same damping
MOST_ROWS = 64  # that are tried
BOTH_WAYS = 128  # inputs up to which each half judges the other


def chosen_damping(rows: F32, halves: Sequence[F32]) -> float:
    """The damping of DAMPINGS whose codes lose least on samples that did not choose them.

    Args:
        rows: the real weights, (C_out, K), all of the layer.
        halves: two matrices (G, K, K) of different samples; fewer: the usual damping.
    """
    if len(halves) < 2 or not rows.size:
        return DAMPING
    matrices, columns = halves[0].shape[:2]
    if not all(np.isfinite(h).all() and np.diagonal(h, axis1=1, axis2=2).any() for h in halves):
        return DAMPING
    step = max(1, len(rows) // MOST_ROWS) if matrices == 1 else 1
    sample = np.ascontiguousarray(rows[::step])
    groups = np.arange(len(rows))[::step] // (len(rows) // matrices)
    tensor = fit(sample, resolve(FORMAT), rule="mse")
    losses: F64 = np.zeros(len(DAMPINGS))
    ways = [(0, 1), (1, 0)] if columns <= BOTH_WAYS else [(0, 1)]
    for chosen, judged in ways:
        for i, damping in enumerate(DAMPINGS):
            codes = gptq_factored(sample, tensor, factor(halves[chosen], damping), groups)
            losses[i] += float(row_losses(sample, codes, halves[judged], groups).sum())
    return DAMPINGS[int(np.argmin(losses))]
