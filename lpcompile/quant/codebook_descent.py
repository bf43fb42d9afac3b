"""The levels of a learned codebook where the outputs want them, while codes and scales stay.

With codes and steps s fixed the output error of a layer is a parabola in the entries t of its table,

    loss = t Q t - 2 b t + const,   Q_ij = sum_r s_r^2 sum_kl H_kl [c_rk = i] [c_rl = j]

so levels have a least squares solution. From it, rounded one level after the other, and from the levels as they are,
coordinate descent over int8 levels minds the exact loss. With integer group scales an entry is T[m][c], all fifteen
rows tied to the level of the code as `formats.group` has them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.codebook import LearnedTable
from lpcompile.formats.group import MULTIPLIERS, is_exact
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, row_steps

MOST_PRODUCTS = 1 << 27  # of H that are summed: rows spread evenly
_LEVELS = 16
_TOP = 127
_SWEEPS = 100
_NEGLIGIBLE = 1e-9  # relative: rounding of float64


def descended(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    damping: float = 0.0,
    most_products: int = MOST_PRODUCTS,
) -> NumberFormat:
    """The table of least output error for these codes and steps, by single levels.

    Their order stays, 0 too; the largest becomes 127 in magnitude. The tensor's own format where that merges levels.

    Args:
        rows: the real weights, (R, K) float32.
        tensor: of that shape, codes of a 16-entry table.
        gram: (G, K, K) E[x x^T].
        groups: (R,) the matrix of each row; None for equal runs of rows.
        damping: added to the diagonals, relative to their mean: then it is that error which falls.
        most_products: products of inputs that are summed; decides how many rows are looked at.
    """
    image = tensor.format.image()
    assert image is not None
    stored = image.astype(np.int64)
    top = int(np.abs(stored).max())
    levels = np.clip(np.rint(stored * (_TOP / top)), -_TOP, _TOP).astype(np.int64)
    if len(np.unique(levels)) < len(np.unique(stored)):
        return tensor.format
    unit = top / _TOP
    if tensor.has_integer_groups:
        unit = unit * MULTIPLIERS if is_exact(tensor.format) else 1.0  # declared tables have 127 as they are
    of = np.arange(len(rows)) // (len(rows) // len(gram)) if groups is None else groups
    step = -(-len(rows) * rows.shape[1] ** 2 // most_products)
    parabola = _parabola(rows, tensor, gram, of, slice(None, None, max(1, step)), unit, damping)
    starts = [levels, *parabola.least_squares(levels)]
    found = min((parabola.descended(s) for s in starts), key=parabola.loss)
    return LearnedTable.from_levels(found.astype(np.int8))


@dataclass(frozen=True)
class _Parabola:
    """The loss as a function of table entries; M = 15 multipliers, or 1.

    Attributes:
        square: Q, (M, 16, M, 16).
        linear: b, (M, 16).
    """

    square: F64
    linear: F64

    def entries(self, levels: Index) -> F64:
        """(..., 16) levels -> (..., M, 16): T[m]; without groups the levels."""
        count = len(self.linear)
        m = np.arange(1, count + 1)[:, None] / (MULTIPLIERS if count > 1 else 1)
        return np.asarray(np.rint(m * levels[..., None, :]), np.float64)

    def loss(self, levels: Index) -> float:
        """But for the constant."""
        t = self.entries(levels)
        return float((t * (np.tensordot(self.square, t) - 2 * self.linear)).sum())

    def least_squares(self, levels: Index) -> list[Index]:
        """The levels that are best as real numbers, rounded one after the other, each time the others anew.

        None where their order would change.
        """
        m = np.arange(1, len(self.linear) + 1) / len(self.linear)
        a = np.einsum("m,minj,n->ij", m, self.square, m)
        free = self._free(levels) & (np.diagonal(a) > 0)
        found, b = levels.copy(), m @ self.linear
        for j in sorted(np.flatnonzero(free), key=lambda j: -a[j, j]):
            solved, *_ = np.linalg.lstsq(
                a[np.ix_(free, free)], (b - a[:, ~free] @ found[~free])[free], rcond=None
            )
            found[j] = np.clip(np.rint(solved[np.flatnonzero(free).searchsorted(j)]), -_TOP, _TOP)
            free[j] = False
        order = np.argsort(levels, kind="stable")
        kept = (np.diff(found[order]) > 0) == (np.diff(levels[order]) > 0)
        return [found] if kept.all() else []

    def descended(self, levels: Index) -> Index:
        """Level by level to the best place between its neighbours, while any moves."""
        levels = levels.copy()
        free = np.flatnonzero(self._free(levels))
        entries = self.entries(levels)
        slope = np.tensordot(self.square, entries) - self.linear
        least = _NEGLIGIBLE * float(np.abs(entries * self.linear).sum())
        for _ in range(_SWEEPS):
            moved = False
            for j in free:
                low = levels[levels < levels[j]].max(initial=-_TOP - 1)
                high = levels[levels > levels[j]].min(initial=_TOP + 1)
                tried = np.repeat(levels[None], high - low - 1, axis=0)
                tried[:, j] = np.arange(low + 1, high)
                change = (self.entries(tried) - self.entries(levels))[:, :, j]
                gain = ((change @ self.square[:, j, :, j]) * change).sum(axis=1) + 2 * change @ slope[:, j]
                best = int(gain.argmin())
                if gain[best] < -least:
                    slope += self.square[:, :, :, j] @ change[best]
                    levels[j], moved = tried[best, j], True
            if not moved:
                break
        return levels

    @staticmethod
    def _free(levels: Index) -> NDArray[np.bool_]:
        """(16,) which may move: the scales hold what is largest, and zero stays."""
        return np.asarray((levels != 0) & (np.abs(levels) < _TOP), np.bool_)


def _parabola(
    rows: F32, tensor: QuantizedTensor, gram: Real, of: Index, part: slice, unit: float, damping: float
) -> _Parabola:
    steps = row_steps(tensor).astype(np.float64)[part] * unit
    at = tensor.codes[part].astype(np.intp)
    count = 1
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape)[part]
        at, count = at + _LEVELS * (m.astype(np.intp) - 1), MULTIPLIERS
    bins = count * _LEVELS
    square, linear = np.zeros((bins, bins)), np.zeros(bins)
    for g in np.unique(of[part]):
        h = np.array(gram[g], np.float64)
        np.fill_diagonal(h, np.diagonal(h) + damping * np.diagonal(h).mean())
        own = np.flatnonzero(of[part] == g)
        images = steps[own, None] * (rows[part][own].astype(np.float64) @ h)
        linear += np.bincount(at[own].reshape(-1), images.reshape(-1), minlength=bins)
        for r in own:
            order = np.argsort(at[r], kind="stable")
            known, first = np.unique(at[r][order], return_index=True)
            summed = np.add.reduceat(np.add.reduceat(h[order], first, axis=0)[:, order], first, axis=1)
            square[np.ix_(known, known)] += steps[r] ** 2 * summed
    return _Parabola(square.reshape(count, _LEVELS, count, _LEVELS), linear.reshape(count, _LEVELS))
