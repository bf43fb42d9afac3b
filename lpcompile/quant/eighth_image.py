"""INT4 codes that are read as FP8, for machines without FP8: as int8 for each row, or as the codes times their scales.

    EighthImage   W^ = s1 * t * w8,  w8 = clip(rint(cast8(s2 q) / t)), one step t a row, bfloat16
    CodeBlocks    W^ = s1 * s2 * q,  no rounding to FP8 in between: what kernels for 4-bit blocks compute

The codes and scales are those of `DualPrecisionTensor`; the image is made of them when the model is loaded. E4M3
numbers are multiples of powers of two, so a power of two as t holds a row's large numbers exactly, where a finer step
rounds them all: both are tried.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, I8, Real
from lpcompile.quant.dual_precision import STORED_BITS, DualPrecisionTensor, bfloat16
from lpcompile.quant.side_path import LARGEST, clipped

D = TypeVar("D", bound=DualPrecisionTensor)
FACTORS = np.linspace(0.8, 1.0, 21)  # of the step that just holds the largest number of a row
_UP = np.float32(1 + 2.0**-7)  # one unit in the last place of bfloat16, at most


@dataclass(frozen=True, slots=True, eq=False)
class EighthImage(DualPrecisionTensor):
    """The numbers of a row as int8 times a step.

    Args:
        steps: (R,) t, positive bfloat16 numbers.

    Raises:
        FormatError: no such steps.
    """

    steps: F32 = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        DualPrecisionTensor.__post_init__(self)
        if self.steps.shape != self.shape[:1] or not (self.steps > 0).all():
            raise FormatError(f"{self.shape[0]} rows need as many positive steps, not {self.steps.shape}")
        if not np.array_equal(self.steps, bfloat16(self.steps)):
            raise FormatError("steps of an image are bfloat16 numbers")

    @property
    def has_int8_image(self) -> bool:
        """Yes: the rows are int8 times a step."""
        return True

    @property
    def largest_level(self) -> int:
        """What int8 holds."""
        return LARGEST + 1

    def int8_image(self) -> tuple[I8, F32]:
        """w8 (R, K) and s1 t, (R,)."""
        w8 = clipped(self.eighths() / self.steps[:, None]).astype(np.int8)
        return w8, self.steps * np.float32(self.first_scale)

    def dequantize(self) -> F32:
        """What the layer multiplies with."""
        w8, scale = self.int8_image()
        return np.asarray(w8 * scale[:, None], np.float32)

    @property
    def exact(self) -> DualPrecisionTensor:
        """The same codes as FP8 numbers."""
        return as_eighths(self)

    @property
    def total_bits(self) -> int:
        """With a step for each row."""
        return self.exact.total_bits + self.steps.size * STORED_BITS

    @property
    def nbytes(self) -> int:
        """With a step for each row."""
        return self.exact.nbytes + self.steps.size * STORED_BITS // 8

    def digest(self) -> str:
        """SHA-256 over all that it says, in hexadecimal."""
        steps = self.steps.astype(ml_dtypes.bfloat16).tobytes().hex()
        return hashlib.sha256(f"{self.exact.digest()} image {steps}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class CodeBlocks(DualPrecisionTensor):
    """The codes times their scales, as they stand."""

    def dequantize(self) -> F32:
        """One float32 product each; s1 is a power of two."""
        scales = self.group_scales * np.float32(self.first_scale)
        spread = self.granularity.expand(scales, self.shape)
        return np.asarray(self.format.decode(self.codes) * spread, np.float32)

    @property
    def exact(self) -> DualPrecisionTensor:
        """The same codes as FP8 numbers."""
        return as_eighths(self)

    def digest(self) -> str:
        """SHA-256 over all that it says, in hexadecimal."""
        return hashlib.sha256(f"{self.exact.digest()} blocks".encode()).hexdigest()


def as_eighths(tensor: DualPrecisionTensor) -> DualPrecisionTensor:
    """The codes and scales of a tensor, read as FP8."""
    return _of_kind(DualPrecisionTensor, tensor)


def code_blocks(tensor: DualPrecisionTensor) -> CodeBlocks:
    """The codes and scales of a tensor, without FP8."""
    return _of_kind(CodeBlocks, tensor)


def of_kind_of(
    kind: DualPrecisionTensor, tensor: DualPrecisionTensor, least: F32 | None = None
) -> DualPrecisionTensor:
    """Other codes and scales in the form of `kind`: an image of their own, blocks, or FP8.

    Args:
        kind: a tensor of that form.
        tensor: codes that are read as FP8.
        least: (R,) what the scales of an image are at least; None: anything.
    """
    if isinstance(kind, EighthImage):
        return eighth_image(tensor, least=least)
    return code_blocks(tensor) if isinstance(kind, CodeBlocks) else tensor


def _of_kind(kind: type[D], tensor: DualPrecisionTensor, **further: Any) -> D:
    return kind(
        tensor.codes,
        tensor.format,
        tensor.granularity,
        tensor.scales,
        scale_bits=STORED_BITS,
        first_scale=tensor.first_scale,
        eighth=tensor.eighth,
        **further,
    )


def eighth_image(
    tensor: DualPrecisionTensor, importance: Real | None = None, least: F32 | None = None
) -> EighthImage:
    """The int8 rows nearest to FP8 numbers, in squares.

    Args:
        tensor: codes that are read as FP8.
        importance: (R, K) or (K,) what an error of an input costs; None: the same everywhere.
        least: (R,) scales s1 t that the bias needs at least; None: none.
    """
    eighths = tensor.eighths()
    largest = np.abs(eighths).max(axis=1, initial=0)
    largest = np.where(largest > 0, largest, np.float32(1))
    floor = np.zeros(len(eighths)) if least is None else least.astype(np.float64) / tensor.first_scale
    whole = largest.astype(np.float64) / LARGEST
    candidates = [np.exp2(np.ceil(np.log2(whole))), *(whole * f for f in FACTORS[::-1])]
    best, steps = np.full(len(eighths), np.inf), np.zeros(len(eighths), np.float32)
    for candidate in candidates:
        found = _rounded_up(np.maximum(candidate, floor))
        errors = np.square(clipped(eighths / found[:, None]) * found[:, None] - eighths, dtype=np.float64)
        loss = (errors if importance is None else errors * importance).sum(axis=1)
        better = loss < best
        best, steps = np.where(better, loss, best), np.where(better, found, steps)
    return _of_kind(EighthImage, tensor, steps=steps)


def _rounded_up(values: Real) -> F32:
    """Bfloat16 numbers that are not below."""
    near = bfloat16(values)
    return np.where(near < values, bfloat16(near * _UP), near).astype(np.float32)
