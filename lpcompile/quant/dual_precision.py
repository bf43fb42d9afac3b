"""INT4 codes that are read as FP8: W^ = s1 * cast8(s2 * q), the two stages of Dual Precision Quantization.

W is divided by one power of two s1 so that its largest magnitude lies in the *protected* range of E4M3, and each group
of inputs gets a scale s2 from the FP8 rounding of its weights. The protected range F' = 15/16 F leaves room for the
lowest code: -8 * s2 <= F, so the expansion needs no clip and INT4 goes to FP8 by one conversion. s2 is rounded to
bfloat16, as it is stored, before any code is chosen. [gafni2025, notes E1-E4, B7]
"""

import hashlib
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.qtensor import QuantizedTensor

FULL_SCALES = {"float8_e4m3fn_240": 240.0, "float8_e4m3fn": 448.0}
LOW, HIGH = -8, 7  # of int4
SMALLEST = np.float32(2.0**-9)  # the smallest E4M3 number: what a group of zeros has as its scale
LEAST_FIRST_SCALE = 2.0**-40  # a lower one would lose nothing; chips apply powers of two over 63 exponents
STORED_BITS = 16  # of either scale, bfloat16
_INT4 = resolve("int4")


def protected_limit(full_scale: float) -> float:
    """F': the largest E4M3 number not above 15/16 of the full scale."""
    grid = resolve("float8_e4m3fn").grid()
    return float(grid[grid <= full_scale * 15 / 16].max())


def cast8(x: NDArray[np.floating]) -> F32:
    """E4M3 numbers nearest to float32 ones, ties to even, saturating at 448."""
    fmt = resolve("float8_e4m3fn")
    return fmt.decode(fmt.encode_f32(np.ascontiguousarray(x, np.float32)))


def power_of_two_above(value: float, least: float) -> float:
    """The least power of two that is neither below `value` nor below `least`."""
    mantissa, exponent = np.frexp(max(value, least))
    return float(np.ldexp(1.0, int(exponent) - (mantissa == 0.5)))


def free_scale(value: float) -> float:
    """The least of 2^-8, 2^-4, 1, 2^4 not below `value`, or 2^4: what Gaudi 2 applies at no cost."""
    return float(2.0 ** np.clip(4 * np.ceil(np.log2(value) / 4), -8, 4))


def first_scale(
    rows: F32, limit: float, least: float = LEAST_FIRST_SCALE, *, hardware: bool = False
) -> float:
    """s1: the power of two that brings all weights into +-limit.

    Args:
        rows: (R, K) weights.
        limit: F'.
        least: s1 is no smaller; 1 / (512 F') in the authors' code.
        hardware: one of `free_scale`.
    """
    wanted = float(np.abs(rows).max(initial=0)) / limit
    return free_scale(max(wanted, least)) if hardware else power_of_two_above(wanted, least)


def grouped(values: NDArray[np.float32], size: int) -> F32:
    """(R, K) as (R, G, size), zeros after the last input."""
    short = -values.shape[1] % size
    padded = np.pad(values, ((0, 0), (0, short))) if short else values
    return padded.reshape(len(values), -1, size)


def bfloat16(x: NDArray[np.floating]) -> F32:
    """Rounded to bfloat16, half to even, as float32."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def second_scales(units: F32, size: int, limit: float) -> F32:
    """s2: (R, G) 2/15 of the largest FP8 magnitude of each group, in bfloat16; never 0.

    Twice the magnitude even where a group has one sign, so that no weight lies beyond the codes.

    Args:
        units: (R, K) weights over s1.
        size: inputs of a group.
        limit: F'.
    """
    eighth = cast8(np.clip(units, -limit, limit))
    largest = np.abs(grouped(eighth, size)).max(axis=2)
    scales = bfloat16(2 * largest / np.float32(15))
    return np.where(largest > 0, np.maximum(scales, np.finfo(np.float32).tiny), SMALLEST)


def expanded_levels(scales: F32) -> F32:
    """(..., 16) what the codes -8..7 stand for under scales (...): E4M3 numbers, ascending."""
    return cast8(scales[..., None] * np.arange(LOW, HIGH + 1, dtype=np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class DualPrecisionTensor(QuantizedTensor):
    """INT4 codes with bfloat16 group scales s2 that expand to E4M3 numbers, times one s1.

    Args:
        first_scale: s1, a power of two.
        eighth: the 8-bit format, one of FULL_SCALES.

    Raises:
        FormatError: no such tensor.
    """

    first_scale: float = 1.0
    eighth: str = "float8_e4m3fn_240"

    def __post_init__(self) -> None:
        QuantizedTensor.__post_init__(self)
        if self.format != _INT4 or self.zeros is not None or not isinstance(self.granularity, PerGroup):
            raise FormatError("codes that are read as FP8 are int4, in groups, without zero points")
        if self.eighth not in FULL_SCALES or np.frexp(self.first_scale)[0] != 0.5:
            raise FormatError(f"{self.eighth} with a first scale of {self.first_scale}")

    @classmethod
    def of(
        cls, integers: NDArray[np.integer], scales: F32, size: int, s1: float, eighth: str
    ) -> "DualPrecisionTensor":
        """From codes -8..7, (R, K).

        Args:
            integers: the codes.
            scales: s2, (R, G), bfloat16 numbers.
            size: inputs of a group.
            s1: a power of two.
            eighth: one of FULL_SCALES.
        """
        codes = (integers.astype(np.int16) & 15).astype(np.uint8)
        return cls(
            codes, _INT4, PerGroup(size), scales, scale_bits=STORED_BITS, first_scale=s1, eighth=eighth
        )

    @property
    def has_int8_image(self) -> bool:
        """No: E4M3 numbers are no small integers."""
        return False

    @property
    def group_size(self) -> int:
        """Inputs that share one s2."""
        assert isinstance(self.granularity, PerGroup)
        return self.granularity.size

    @property
    def group_scales(self) -> F32:
        """s2."""
        assert not isinstance(self.scales, QuantizedTensor)
        return self.scales

    def eighths(self) -> F32:
        """(R, K) the E4M3 numbers that the codes expand to."""
        spread = self.granularity.expand(self.group_scales, self.shape)
        return cast8(self.format.decode(self.codes) * spread)

    def dequantize(self) -> F32:
        """The real values: exact products with a power of two."""
        return self.eighths() * np.float32(self.first_scale)

    @property
    def total_bits(self) -> int:
        """Codes, s2 and s1."""
        return self.codes.size * self.format.bits + (self.group_scales.size + 1) * STORED_BITS

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return -(-self.codes.size // 2) + (self.group_scales.size + 1) * STORED_BITS // 8

    def digest(self) -> str:
        """SHA-256 over all that it says, in hexadecimal."""
        own = f"{QuantizedTensor.digest(self)} {self.first_scale!r} {self.eighth}"
        return hashlib.sha256(own.encode()).hexdigest()

    def integers(self) -> NDArray[np.int8]:
        """(R, K) codes as -8..7."""
        return self.format.decode(self.codes).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Stages:
    """A layer's weights over s1, with the scales that both stages give them.

    Attributes:
        units: (R, K) W / s1, exact.
        s1: first scale.
        scales: (R, G) s2, bfloat16 numbers.
        size: inputs of a group.
        eighth: one of FULL_SCALES.
    """

    units: F32
    s1: float
    scales: F32
    size: int
    eighth: str

    @classmethod
    def of(
        cls,
        rows: F32,
        size: int,
        eighth: str = "float8_e4m3fn_240",
        least: float = LEAST_FIRST_SCALE,
        *,
        hardware: bool = False,
    ) -> "Stages":
        """Both stages of a layer.

        Args:
            rows: (R, K) float32, finite.
            size: inputs of a group.
            eighth: one of FULL_SCALES.
            least: of s1.
            hardware: whether s1 is one of `free_scale`.

        Raises:
            FormatError: weights that are not finite, no such 8-bit format.
        """
        if eighth not in FULL_SCALES:
            raise FormatError(f"weights expand to {' or '.join(FULL_SCALES)}, not {eighth}")
        if not np.isfinite(rows).all():
            raise FormatError(
                "weights hold NaN or infinity", hint="repair the model: no format can hold them"
            )
        limit = protected_limit(FULL_SCALES[eighth])
        s1 = first_scale(rows, limit, least, hardware=hardware)
        units = np.asarray(rows / np.float32(s1), np.float32)
        return cls(units, s1, second_scales(units, size, limit), size, eighth)

    def tensor(self, integers: NDArray[np.integer]) -> DualPrecisionTensor:
        """With codes -8..7."""
        return DualPrecisionTensor.of(integers, self.scales, self.size, self.s1, self.eighth)

    def nearest(self) -> DualPrecisionTensor:
        """Each weight over s1 rounded once to its code [E3, with v = W / s1]."""
        return self.tensor(
            nearest_codes(self.units, PerGroup(self.size).expand(self.scales, self.units.shape))
        )

    def nearest_twice(self) -> DualPrecisionTensor:
        """Rounded to FP8 and then to INT4, as one who has the FP8 weights only would."""
        limit = np.float32(protected_limit(FULL_SCALES[self.eighth]))
        spread = PerGroup(self.size).expand(self.scales, self.units.shape)
        return self.tensor(nearest_codes(cast8(np.clip(self.units, -limit, limit)), spread))


def nearest_codes(units: NDArray[np.floating], scales: NDArray[np.floating]) -> NDArray[np.int8]:
    """clip(rint(v / s2), -8, 7)."""
    return np.clip(np.rint(units / scales), LOW, HIGH).astype(np.int8)
