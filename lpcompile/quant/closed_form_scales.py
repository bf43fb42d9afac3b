"""Channel scales that suit given codes best, in closed form, and codes and scales improved in turn.

With levels q frozen, the output error of a row is a parabola in its scale, least at s = (w H q) / (q H q). One scale
for the whole tensor has the sums over rows above and below the line. [2602.02126, stage two]
"""

import numpy as np

from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.quant.coordinate_descent import SWEEPS, sweep
from lpcompile.quant.gram_factor import scaled_gram
from lpcompile.quant.nearest_codes import channel_scales, with_channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, row_steps, unit_rows

ROUNDS = 4
_MARGIN = 1e-6  # relative: less is rounding of float32
_ABOVE = 1 + 1e-6  # keeps a floor through the rounding of a product to float32


def fit_channel_scales(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    damping: float = 0.0,
    min_scale: F32 | None = None,
) -> QuantizedTensor:
    """The tensor with other channel scales, its codes and group multipliers frozen; no row's output error rises.

    A scale keeps its storage format. It stays where the stored new one is no better.

    Args:
        rows: the real weights, (R, K) float32.
        tensor: of that shape: a scale per tensor, per channel or integer groups.
        gram: (G, K, K) E[x x^T].
        groups: (R,) the matrix of each row; None for equal runs of rows.
        damping: added to the diagonals, relative to their mean: then it is that error which falls.
        min_scale: (R,) least channel scales of the int8 image (of the format where it has none), as in `fit`.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    old = channel_scales(tensor)
    steps = row_steps(tensor).astype(np.float64)
    product, square = _moments(rows, tensor, gram, groups, damping)
    if old.shape == ():
        product, square = np.stack([product, square]) @ steps[:, None] ** 2
        steps = steps[:1]
    ratio = 1 + np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    wanted = np.where(ratio > 0, ratio, 1.0)
    floors = np.zeros(1) if min_scale is None else np.asarray(min_scale, np.float64)
    floors = floors.max(keepdims=True) if old.shape == () else floors
    lifted = np.maximum(wanted, floors / steps * _ABOVE)
    stored = with_channel_scales(tensor, (old * lifted.reshape(old.shape)).astype(np.float32))
    found = row_steps(stored)[: len(steps)] / steps
    better = np.abs(found - wanted) < np.abs(1 - wanted) - _MARGIN
    better &= (found * steps >= floors) | (found > 1)
    if not better.any():
        return tensor
    return with_channel_scales(tensor, np.where(better.reshape(old.shape), channel_scales(stored), old))


def refined(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    rounds: int = ROUNDS,
    sweeps: int = SWEEPS,
    damping: float = 0.0,
    min_scale: F32 | None = None,
) -> QuantizedTensor:
    """Scales and codes in turn, from given ones; no row's output error rises (of one scale a tensor: the sum).

    Args:
        rows: as in `fit_channel_scales`.
        tensor: as there.
        gram: as there.
        groups: as there.
        rounds: at most so many times both; it ends where neither changes.
        sweeps: of codes in a round.
        damping: as there.
        min_scale: as there.

    Raises:
        FormatError: as there.
        CalibrationError: as there.
    """
    for _ in range(rounds):
        scaled = fit_channel_scales(rows, tensor, gram, groups, damping=damping, min_scale=min_scale)
        found = sweep(rows, scaled, gram, groups, sweeps=sweeps, damping=damping)
        if scaled is tensor and np.array_equal(found.codes, tensor.codes):
            break
        tensor = found
    return tensor


def _moments(
    rows: F32, tensor: QuantizedTensor, gram: Real, groups: Index | None, damping: float
) -> tuple[F64, F64]:
    """(R,) e H q and q H q, levels q and errors e in steps."""
    units = unit_rows(rows, tensor, len(gram), groups)
    h, sizes = scaled_gram(gram[units.used], damping)
    levels = units.levels()
    errors = units.values - levels
    image = h @ levels
    product, square = np.empty(len(rows)), np.empty(len(rows))
    for out, other in ((product, errors), (square, levels)):
        out[units.slots] = (image * other).sum(axis=1, dtype=np.float64) * sizes[:, None]
    return product, square
