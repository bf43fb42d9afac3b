"""Weights to round when a layer's inputs are not those of the float network.

The quantised network gives x^ where the float one gives x. Codes then should make W^ x^ come near to W x:

    E|W x - W^ x^|^2 = tr((W' - W^) H (W' - W^)^T) + what no W^ changes
    H = E[x^ x^^T],  D = E[(W x) x^^T],  W' = D H^-1

So the layer is rounded from W' instead of W, with H as its Gram matrix. A ridge keeps W' near W where H is small or
known from few samples: W' = (D + l W)(H + l I)^-1 = W + (D - W H)(H + l I)^-1. This is the exact form of the
asymmetric term of [li2025].
"""

import numpy as np

from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.gram_factor import damped_cholesky, regular, solved
from lpcompile.quant.unit_rows import Index, row_slots

RIDGE = 0.01  # of the mean of the diagonal of H


def retargeted(rows: F32, gram: Real, cross: Real, groups: Index | None = None, ridge: float = RIDGE) -> F32:
    """(R, K) the real weights that a layer with other inputs is rounded from.

    Args:
        rows: the real weights, (R, K) float32.
        gram: (G, K, K) E[x^ x^^T], of the inputs in the quantised network.
        cross: (R, K) E[(W x) x^^T], x the same inputs in the float network.
        groups: (R,) the matrix of each row; None for equal runs of rows.
        ridge: l, relative to the mean of the diagonal of `gram`; raised by itself for a matrix that stays singular. The
            larger, the nearer to the weights as they are.

    Raises:
        CalibrationError: matrices that are not finite or not of these shapes.
        FormatError: groups that do not fit.
    """
    h, dead = regular(gram)
    if cross.shape != rows.shape or not np.isfinite(cross).all():
        raise CalibrationError(
            f"cross moments must be finite and of shape {rows.shape}, not {cross.shape}",
            hint="gather them on the same samples as the Gram matrices",
        )
    used, slots = row_slots(len(rows), len(h), groups)
    lower = damped_cholesky(h[used], ridge)
    aim = cross[slots] - rows.astype(np.float64)[slots] @ h[used]  # (G, P, K)
    aim[np.broadcast_to(dead[used, None, :], aim.shape)] = 0.0  # an input that is zero now tells nothing
    shift = solved(lower, aim.transpose(0, 2, 1)).transpose(0, 2, 1)
    found = np.empty_like(rows)
    found[slots] = rows[slots] + shift
    return found
