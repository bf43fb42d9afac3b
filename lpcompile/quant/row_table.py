"""Tables whose rows are looked up, as embeddings are: int8 with one scale a row, or half precision."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.quant.neighbours import least_pair_scales

FORMATS = ("int8", "float16")
LARGEST = 127  # symmetric: no row needs a zero point


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """A table as it is stored.

    Attributes:
        codes: int8 or float16, in the shape of the table.
        scales: float32, of that shape but 1 along every axis other than that of the rows; None for float16.
    """

    codes: NDArray[Any]
    scales: F32 | None = None

    @property
    def values(self) -> F32:
        """What a reader gets, one float32 product each."""
        floats = self.codes.astype(np.float32)
        return floats if self.scales is None else np.multiply(floats, self.scales, dtype=np.float32)

    @property
    def nbytes(self) -> int:
        """What it takes in a file."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def sha256(self) -> str:
        """Of codes and scales."""
        digest = hashlib.sha256(np.ascontiguousarray(self.codes).tobytes())
        if self.scales is not None:
            digest.update(np.ascontiguousarray(self.scales, "<f4").tobytes())
        return digest.hexdigest()


def row_table(values: F32, axis: int | tuple[int, ...], fmt: str, *, reduce_range: bool = False) -> RowTable:
    """Round a table to nearest.

    Args:
        values: float32, finite, of any shape.
        axis: along which rows are looked up; of weights, several that tell rows apart.
        fmt: one of FORMATS.
        reduce_range: neighbours along the last axis stay within int16 where two products are added in it.

    Raises:
        FormatError: there is no such format, or a value is too large for half precision.
    """
    if fmt == "float16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise FormatError("a value is too large for float16", hint="use int8")
        return RowTable(half)
    if fmt != "int8":
        raise FormatError(f"no table has the format '{fmt}'", hint=f"formats are: {', '.join(FORMATS)}")
    kept = {a % values.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
    others = tuple(i for i in range(values.ndim) if i not in kept)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scales = (largest / np.float32(LARGEST)).astype(np.float32)
    if reduce_range:
        rows = values.reshape(-1, values.shape[-1])
        least = least_pair_scales(rows, np.arange(rows.shape[1])).reshape(*values.shape[:-1], 1)
        scales = np.maximum(scales, least.max(axis=others, keepdims=True))
    scales[scales == 0] = 1  # rows of zeros, and rows below what a float32 step can tell from them
    codes = np.rint(values / scales)
    return RowTable(np.clip(codes, -LARGEST, LARGEST, out=codes).astype(np.int8), scales)
