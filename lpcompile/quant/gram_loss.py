"""The output error of a layer's weights, from its Gram matrices."""

import numpy as np

from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, row_steps, unit_rows


def row_losses(rows: F32, tensor: QuantizedTensor, gram: Real, groups: Index | None = None) -> F64:
    """(R,) e H e^T, e = weights minus their quantised values: the mean squared error of each output.

    Args:
        rows: (R, K) float32.
        tensor: of that shape, as in `unit_rows`.
        gram: (G, K, K).
        groups: (R,) the matrix of each row; None for equal runs of rows.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
    """
    units = unit_rows(rows, tensor, len(gram), groups)
    errors = (units.values - units.levels()).astype(np.float64)
    loss = (errors * (np.asarray(gram[units.used], np.float64) @ errors)).sum(axis=1)
    found = np.empty(len(rows))
    found[units.slots] = loss
    return np.asarray(np.maximum(found, 0) * row_steps(tensor).astype(np.float64) ** 2)
