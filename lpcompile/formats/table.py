"""What every format of up to 8 bits shares: all of it follows from its table."""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from lpcompile.formats.arrays import F32, F64, I8, U8, Real, frozen
from lpcompile.formats.nearest import Nearest, nearest_of


class TableFormat(ABC):
    """A number format given by the value of each of its codes.

    A subclass is a frozen dataclass that defines `name`, `bits` and `_values`; it is equal to another of the
    same parameters, and `resolve(f.name) == f`. The oracle of every format is `grid()`: `decode(encode(x))`
    is the point of it nearest to x, ties to the even code, saturating.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Canonical name, spelled as ml_dtypes and ONNX do where they know the format."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Payload bits an element, scales not counted."""

    @abstractmethod
    def _values(self) -> F64:
        """(2**bits,) value of each code, NaN where the code is reserved."""

    def __str__(self) -> str:
        return self.name

    @cached_property
    def _table(self) -> F64:
        return frozen(self._values())

    @cached_property
    def _table32(self) -> F32:
        return frozen(self._table.astype(np.float32))

    def table(self) -> F64:
        """(2**bits,) value of each code, NaN where the code is reserved."""
        return self._table

    def grid(self) -> F64:
        """(K,) the finite values of `table()`, ascending, each once; K <= 2**bits."""
        return self.nearest.levels

    @property
    def max(self) -> float:
        """Largest finite magnitude before scaling."""
        return float(np.abs(self.grid()).max())

    @property
    def codebook_bits(self) -> int:
        """Bits that a tensor must carry to define its table; 0 for a format with a fixed one."""
        return 0

    @cached_property
    def nearest(self) -> Nearest:
        """The rounding onto `grid()`."""
        return nearest_of(self._table)

    def encode(self, x: Real) -> U8:
        """Codes of the grid points nearest to x, ties to the even code, saturating.

        Raises:
            FormatError: x holds NaN.
        """
        return self.nearest.encode(x)

    def encode_f32(self, x: F32, scale: F32 | float | None = None) -> U8:
        """Codes nearest to the float32 quotient x / scale; scale > 0 is broadcastable to x."""
        return self.nearest.encode_f32(x, scale)

    def decode(self, codes: U8) -> F32:
        """Values of codes as float32 (exact for every format here); a reserved code gives NaN."""
        return np.take(self._table32, codes)

    @cached_property
    def _image(self) -> tuple[I8 | None, float]:
        """The table times the smallest power of two >= 1 that makes it integer, where that fits int8."""
        table = np.where(np.isnan(self._table), 0.0, self._table)
        for shift in range(16):
            image = np.ldexp(table, shift)
            if np.array_equal(image, np.rint(image)):
                if image.min() >= -128 and image.max() <= 127:
                    return frozen(image.astype(np.int8)), 2.0**-shift
                break
        return None, 1.0

    def image(self) -> I8 | None:
        """(2**bits,) the int8 image indexed by code, 0 where reserved; None where the format has none."""
        return self._image[0]

    @property
    def image_scale(self) -> float:
        """`image()[code] * image_scale` is the real value of a code; 1 where there is no image."""
        return self._image[1]

    @property
    def image_exact(self) -> bool:
        """Whether `image() * image_scale` equals `table()`; otherwise the image defines a compiled layer."""
        return self.image() is not None
