"""Sums of outer products of columns, a b^T: float32 products over some hundred columns, summed in float64."""

import numpy as np

from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F32, F64

_LEAST_COLUMNS, _MOST_COLUMNS = 64, 1024  # of one product, so that adding it up is the smaller work


class ProductSum:
    """Sum of a b^T over columns that come in parts.

    Args:
        groups: G.
        inputs: K, of b.
        tensor: whose columns they are, for errors.
        rows: of a; None: K.
    """

    def __init__(self, groups: int, inputs: int, tensor: str, rows: int | None = None) -> None:
        self._total = np.zeros((groups, inputs if rows is None else rows, inputs))
        self._waiting: list[tuple[F32, F32]] = []
        self._columns, self._weight = 0, 1.0
        self._enough = _enough(inputs)
        self._tensor = tensor

    def add(self, a: F32, b: F32, weight: float = 1.0) -> None:
        """Add columns, (G, rows, P) and (G, K, P); `a` and `b` may be one array, which is half the work.

        Args:
            a: left ones.
            b: right ones.
            weight: how often each of them counts. Products are weighted, not columns, which are many more.

        Raises:
            CalibrationError: one of them is not finite.
        """
        if weight != self._weight:
            self._multiply()
            self._weight = weight
        self._waiting.append((a, b))
        self._columns += a.shape[-1]
        if self._columns >= self._enough:
            self._multiply()

    def total(self) -> F64:
        """The sum so far, (G, rows, K).

        Raises:
            CalibrationError: a column is not finite.
        """
        self._multiply()
        return self._total

    def _multiply(self) -> None:
        if not self._waiting:
            return
        same = all(a is b for a, b in self._waiting)
        a = _joined([a for a, _ in self._waiting])
        b = a if same else _joined([b for _, b in self._waiting])
        self._waiting, self._columns = [], 0
        with np.errstate(over="ignore", invalid="ignore"):
            product = np.matmul(a, b.swapaxes(-1, -2))
        if not np.isfinite(product).all():
            self._check(a, b)
            product = np.matmul(a.astype(np.float64), b.swapaxes(-1, -2).astype(np.float64))
        self._total += product if self._weight == 1 else product * self._weight

    def _check(self, *columns: F32) -> None:
        if not all(np.isfinite(c).all() for c in columns):
            raise CalibrationError(
                "activation is not finite on the calibration samples",
                where=self._tensor,
                hint="check the samples' preprocessing, or the model itself with 'lpcompile run'",
            )


def summing_bytes(groups: int, inputs: int, rows: int | None = None) -> int:
    """Memory of a sum: itself, one product, two times columns that wait and are joined."""
    return groups * (inputs if rows is None else rows) * (12 * inputs + 16 * _enough(inputs))


def as_float32(moments: F64) -> F32:
    """Moments in float32, those beyond its range at its end."""
    largest = np.finfo(np.float32).max
    return np.clip(moments, -largest, largest).astype(np.float32)


def _enough(inputs: int) -> int:
    return min(max(inputs, _LEAST_COLUMNS), _MOST_COLUMNS)


def _joined(parts: list[F32]) -> F32:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
