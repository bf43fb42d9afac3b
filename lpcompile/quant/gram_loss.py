"""The output error of a layer's weights, from its Gram matrices."""

import numpy as np

from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, arranged, row_slots, row_steps, unit_rows


def row_losses(
    rows: F32, tensor: QuantizedTensor, gram: Real, groups: Index | None = None, *, damping: float = 0.0
) -> F64:
    """(R,) e H e^T, e = weights minus their quantised values: the mean squared error of each output.

    Args:
        rows: (R, K) float32.
        tensor: of that shape, as in `unit_rows`.
        gram: (G, K, K).
        groups: (R,) the matrix of each row; None for equal runs of rows.
        damping: added to the diagonals, relative to their mean.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
    """
    if tensor.side is None:
        units = unit_rows(rows, tensor, len(gram), groups)
        used, slots, steps = units.used, units.slots, row_steps(tensor).astype(np.float64)
        errors = (units.values - units.levels()).astype(np.float64)
    else:
        used, slots = row_slots(len(rows), len(gram), groups)
        errors, steps = (
            arranged(rows - tensor.dequantize(), slots, None).astype(np.float64),
            np.ones(len(rows)),
        )
    h = np.array(gram[used], np.float64)
    at = np.arange(h.shape[1])
    h[:, at, at] += damping * h[:, at, at].mean(axis=1, keepdims=True)
    loss = (errors * (h @ errors)).sum(axis=1)
    found = np.empty(len(rows))
    found[slots] = loss
    return np.asarray(np.maximum(found, 0) * steps**2)
