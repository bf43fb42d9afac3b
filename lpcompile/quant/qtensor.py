"""A quantised tensor: codes, their format, and scales that may be quantised tensors themselves.

`W^ = s * (table[code] - zero)`, s per tensor, per slice of an axis, or per group. Double quantisation is the
union in `scales`, nothing more. Where the tensor has an int8 image the definition is `W^ = s_c * w8`, w8
int8: equal for every format whose image is exact, and *the* definition of the weights for the others (nf4,
declared group tables).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, I8, U8
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_table, group_unit, has_group_table
from lpcompile.formats.packing import pack, packed_size
from lpcompile.quant.granularity import Granularity, PerAxis, PerGroup, PerTensor
from lpcompile.quant.side_path import SidePath, merged_image

GROUP_SCALE_FORMAT = "uint4"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Codes in the shape of the original, unpacked, with what is needed to read them.

    Integer group scales: granularity `PerGroup`, `scales` a tensor of format uint4 whose codes are the
    multipliers m_g (1..15) and whose own granularity is `PerAxis(0)`.

    Args:
        codes: uint8, each below 2**format.bits.
        format: of the codes.
        granularity: which elements share a scale.
        scales: of shape `granularity.scale_shape(codes.shape)`: float32, or a quantised tensor whose codes
            have it.
        zeros: zero points of that shape, for intN and uintN; None for 0.
        scale_bits: what a float scale takes where stored (16 for values that are kept as bfloat16).
        side: factors that are added to what the codes say, of rows (C_out, K); then the int8 image is the merged one
            and the tensor is what image and scale say. Those of a path that stays apart are added as they are; then
            the image is that of the codes alone.

    Raises:
        FormatError: shapes or types do not fit together.
    """

    codes: U8
    format: NumberFormat
    granularity: Granularity
    scales: "F32 | QuantizedTensor"
    zeros: U8 | None = None
    scale_bits: int = 32
    side: SidePath | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype != np.uint8:
            raise FormatError(f"codes must be uint8, not {self.codes.dtype}")
        if self.codes.size and int(self.codes.max()) >> self.format.bits:
            raise FormatError(f"code {int(self.codes.max())} does not fit {self.format.name}")
        if not isinstance(self.scales, QuantizedTensor) and self.scales.dtype != np.float32:
            raise FormatError(f"scales must be float32, not {self.scales.dtype}")
        expected = self.granularity.scale_shape(self.codes.shape)
        found = self.scales.shape
        if found != expected:
            raise FormatError(
                f"granularity '{self.granularity}' needs scales of shape {expected}, not {found}"
            )
        if self.zeros is not None and self.zeros.shape != expected:
            raise FormatError(f"zero points must have the shape {expected}, not {self.zeros.shape}")
        if self.zeros is not None and not _is_integer(self.format):
            raise FormatError(f"{self.format.name} takes no zero points", hint="only intN and uintN do")
        if self.side is not None and not self._merges(self.side):
            raise FormatError(f"{self.format.name} of shape {self.shape} cannot hold this side path")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.codes.shape

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, QuantizedTensor) and self.digest() == other.digest())

    def __hash__(self) -> int:
        return hash(self.digest())

    @property
    def has_integer_groups(self) -> bool:
        """Whether group scales are integers times a channel scale."""
        return (
            isinstance(self.granularity, PerGroup)
            and self.granularity.axis > 0
            and isinstance(self.scales, QuantizedTensor)
            and self.scales.format.name == GROUP_SCALE_FORMAT
            and self.scales.granularity == PerAxis(0)
        )

    def _merges(self, side: SidePath) -> bool:
        by_row = self.has_integer_groups or self.granularity in (PerTensor(), PerAxis(0))
        fits = self.shape == (side.b.shape[0], side.a.shape[1])
        if not (fits and by_row and self.has_int8_image and self.zeros is None and self.format.bits <= 4):
            return False
        return side.is_exact(self.largest_level)

    @property
    def main(self) -> "QuantizedTensor":
        """The tensor without its side path."""
        return self if self.side is None else replace(self, side=None)

    @property
    def has_int8_image(self) -> bool:
        """Whether `int8_image()` exists."""
        if self.has_integer_groups:
            return has_group_table(self.format) and self.zeros is None
        return self.format.image() is not None and not isinstance(self.granularity, PerGroup)

    @property
    def largest_level(self) -> int:
        """The magnitude that the int8 image of the codes may have, whatever they are.

        Raises:
            FormatError: there is no image.
        """
        image = group_table(self.format) if self.has_integer_groups else self.format.image()
        if image is None:
            raise FormatError(f"{self.format.name} has no int8 image")
        return int(np.abs(image.astype(np.int16)).max(initial=0))

    def int8_image(self) -> tuple[I8, F32]:
        """The tensor as `W^ = s_c * w8`.

        Returns:
            w8, int8, shape of the codes; s_c, float32: () for a scale per tensor, else (length of the axis,),
            which is axis 0 for integer group scales and with a merged side path. Of the main path alone where the
            side path stays apart.

        Raises:
            FormatError: there is no image: float group scales, a format without one, zero points beyond int8.
        """
        if not self.has_int8_image:
            raise FormatError(
                f"{self.format.name} with granularity '{self.granularity}' has no int8 image",
                hint="use a format that has one, with scales per tensor, per channel or integer groups",
            )
        if self.side is not None and not self.side.apart:
            return merged_image(*self.main.int8_image(), self.side)
        if self.has_integer_groups:
            return self._group_image()
        image = self.format.image()
        assert image is not None
        w8 = _looked_up(image, self.codes)
        if self.zeros is not None:
            shifted = w8.astype(np.int16) - self.granularity.expand(self.zeros.astype(np.int16), self.shape)
            if shifted.size and (shifted.min() < -128 or shifted.max() > 127):
                raise FormatError(f"{self.format.name} minus its zero point does not fit int8")
            w8 = shifted.astype(np.int8)
        return w8, image_scales(_floats(self.scales), self.format.image_scale)

    def _group_image(self) -> tuple[I8, F32]:
        assert isinstance(self.scales, QuantizedTensor)
        table = group_table(self.format)
        rows = self.granularity.expand(self.scales.codes, self.shape) << np.uint8(self.format.bits)
        w8 = np.take(table.reshape(-1), rows | self.codes)  # 4 + 4 bits: the index fits a byte
        return w8, image_scales(_floats(self.scales.scales), group_unit(self.format))

    def dequantize(self) -> F32:
        """The real values, float32, shape of the codes: one float32 product each."""
        if self.has_int8_image and self.zeros is None:
            w8, scale = self.int8_image()
            by_row = self.has_integer_groups or self.side is not None
            axis = PerAxis(0) if by_row else self.granularity
            if self.side is not None:
                scale = np.broadcast_to(scale.reshape(-1), self.shape[:1])
            levels: F32 | I8 = w8
            if self.side is not None and self.side.apart:
                levels = w8.astype(np.float32) + self.side.product()
            values: F32 = np.multiply(levels, axis.expand(scale, self.shape), dtype=np.float32)
            return values
        values = self.format.decode(self.codes)
        if self.zeros is not None:
            values -= self.granularity.expand(self.zeros.astype(np.float32), self.shape)
        values *= self.granularity.expand(_floats(self.scales), self.shape)
        return values

    def packed(self) -> bytes:
        """The codes as ONNX keeps them in `raw_data`."""
        return pack(self.codes, self.format.bits)

    @property
    def total_bits(self) -> int:
        """Payload, codebook, all scales, zero points and side path."""
        scales = self.scales
        scale_bits = (
            scales.total_bits if isinstance(scales, QuantizedTensor) else scales.size * self.scale_bits
        )
        zero_bits = 0 if self.zeros is None else self.zeros.size * self.format.bits
        side_bits = 0 if self.side is None else 8 * self.side.nbytes
        return (
            self.codes.size * self.format.bits
            + self.format.codebook_bits
            + scale_bits
            + zero_bits
            + side_bits
        )

    @property
    def bits_per_element(self) -> float:
        """`total_bits` an element: the number papers quote."""
        return self.total_bits / max(self.codes.size, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored, each array packed on its own."""
        scales = self.scales
        nbytes = packed_size(self.codes.size, self.format.bits) + self.format.codebook_bits // 8
        nbytes += scales.nbytes if isinstance(scales, QuantizedTensor) else scales.size * self.scale_bits // 8
        nbytes += 0 if self.side is None else self.side.nbytes
        return nbytes + (0 if self.zeros is None else packed_size(self.zeros.size, self.format.bits))

    def reshape(self, shape: Sequence[int]) -> "QuantizedTensor":
        """The same tensor in another shape, e.g. (C_out, K) as (C_out, C_in, kH, kW).

        Raises:
            FormatError: the granularity would mean other elements (groups; another axis than an unchanged
            first one).
        """
        shape = tuple(shape)
        same_first = bool(shape) and self.codes.ndim > 0 and shape[0] == self.shape[0]
        by_first = self.granularity == PerAxis(0) and same_first
        if self.side is not None or (self.granularity != PerTensor() and not by_first):
            raise FormatError(f"granularity '{self.granularity}' does not survive {self.shape} -> {shape}")
        return replace(self, codes=self.codes.reshape(shape))

    def digest(self) -> str:
        """SHA-256 over format, granularity, shape, codes, scales and zero points, in hexadecimal."""
        h = hashlib.sha256(f"{self.format.name} {self.granularity} {self.shape} {self.scale_bits}\n".encode())
        h.update(np.ascontiguousarray(self.codes).data)
        if isinstance(self.scales, QuantizedTensor):
            h.update(self.scales.digest().encode())
        else:
            h.update(np.ascontiguousarray(self.scales, "<f4").tobytes())
        if self.zeros is not None:
            h.update(b"zeros" + np.ascontiguousarray(self.zeros).tobytes())
        if self.side is not None:
            h.update(b"side" + self.side.digest())
        return h.hexdigest()


def _looked_up(image: I8, codes: U8) -> I8:
    """`image[codes]`; the codes themselves, no copy, where they are the image in two's complement."""
    if np.array_equal(image.view(np.uint8), np.arange(len(image))):
        return codes.view(np.int8)
    return np.take(image, codes)


def _floats(scales: "F32 | QuantizedTensor") -> F32:
    return scales.dequantize() if isinstance(scales, QuantizedTensor) else scales


def _is_integer(fmt: NumberFormat) -> bool:
    grid = fmt.grid()
    return fmt.codebook_bits == 0 and bool(np.all(np.diff(grid) == 1))


def image_scales(scales: F32, unit: float) -> F32:
    """Scales of the int8 image from those of the format: a float32 product, as the compiled graph has it."""
    return np.asarray(np.multiply(scales, np.float32(unit), dtype=np.float32))
