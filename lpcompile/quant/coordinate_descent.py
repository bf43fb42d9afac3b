"""Coordinate descent on codes: input by input to the level that is best while all others stay.

From codes with errors e (weights minus levels) the output error e H e^T is least, as a function of the k-th code, at
the level nearest to q_k + (e H)_k / H_kk; for any levels, since it is a parabola. [behdin2023, sec. 3]
"""

import numpy as np

from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.gptq import fed_back
from lpcompile.quant.gram_factor import regular
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, UnitRows, unit_rows

SWEEPS = 3
BLOCK = 128
_STAYS = np.float32(0)
_MARGIN = np.float32(1e-5)  # of the distance between two levels: what moves by less is rounding of float32


def sweep(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    sweeps: int = SWEEPS,
    damping: float = 0.0,
    block: int = BLOCK,
) -> QuantizedTensor:
    """The tensor with codes of less output error in each row, or the same (but for rounding of float32).

    Args:
        rows: the real weights, (R, K) float32.
        tensor: format, scales and the codes to start from.
        gram: (G, K, K) E[x x^T]. Inputs that are always zero get the nearest codes.
        groups: (R,) the matrix of each row; None for equal runs of rows.
        sweeps: at most so many through all inputs; it ends where no code changes.
        damping: added to the diagonals, relative to their mean: then it is that error which falls.
        block: inputs between two matrix products; changes the time only.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    units = unit_rows(rows, tensor, len(gram), groups)
    coupling = _coupling(gram[units.used], damping)
    levels = units.levels()
    errors = units.values - levels
    for _ in range(sweeps):
        if not _improved(units, levels, errors, coupling, block):
            break
    return units.tensor(levels)


def _coupling(gram: Real, damping: float) -> F32:
    """(G, K, K) H_kj / H_kk, 0 for k = j: what the error of input j adds to the best value of input k."""
    h, _ = regular(gram)
    at = np.arange(h.shape[1])
    diagonal = h[:, at, at]
    h[:, at, at] = 0
    h /= (diagonal + damping * diagonal.mean(axis=1, keepdims=True))[:, :, None]
    return h.astype(np.float32)


def _improved(units: UnitRows, levels: F32, errors: F32, coupling: F32, block: int) -> bool:
    """One sweep over levels and errors (G, K, P) in place; whether any level changed."""
    values = units.values
    columns = values.shape[1]
    any_change = False
    for start in range(0, columns, block):
        end = min(start + block, columns)
        best = values[:, start:end] + coupling[:, start:end] @ errors
        moves = np.zeros_like(best)
        moved = False
        for i, k in enumerate(range(start, end)):
            x = best[:, i]
            if moved:
                x = x + fed_back(coupling[:, :, start:k], k, moves[:, :i])
            old, new = levels[:, k], units.round(k, x)
            move = old - new
            if not move.any():
                continue
            gain = np.abs(old - x) - np.abs(new - x)
            moves[:, i] = np.where(gain > _MARGIN * np.abs(move), move, _STAYS)
            moved = True
        if moved:
            levels[:, start:end] -= moves
            errors[:, start:end] += moves
            any_change = any_change or bool(moves.any())
    return any_change
