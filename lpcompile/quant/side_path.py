"""A low-rank side path in 8 bits, and the int8 image of weights that it is merged into.

    V = w8 + u * sum_j n_j b8_j a8_j      b8 (C, r), a8 (r, K) int8; n_j an 8-bit integer a rank; u a power of two

so that B is held in units of the scale s_c of the main path, and the weights are s_c V. Every term is a whole number of
u below 2^24 u, and so is their sum: float32 holds V exactly whatever the order of adding. The merged image is

    t = v * k_c;    w8' = clip(rint(V / t));    scale s_c t      k_c (C,) 8-bit integers, v a float32 number

arithmetic of single elements in float32, each result rounded once: the same bits in numpy and in a graph. A path that
stays apart is not merged: its weights are s_c V, and it has no steps. One that is concatenated to its layer is apart,
too (`quant.concat_path`): there float64 holds V exactly, and float32 what is left of it. [architecture 3.2, 3.6]
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64, I8, U8, Real

LARGEST = 127
MOST_RANK = 512
MOST_SUM = ((1 << 24) - 1) // 255  # of magnitudes of a row of A, times the largest code of 8 bits
_EXACT, _EXACT_IN_FLOAT64 = 1 << 24, 1 << 53
_MOST_MULTIPLIER = 255
_FINEST = 40
_LEAST_REACH = 2.0**-10
_NOISE = 1e-12  # of the largest number of a column: rounding errors of float64


@dataclass(frozen=True, slots=True, eq=False)
class SidePath:
    """The factors of one layer.

    Attributes:
        b: (C, r) int8.
        a: (r, K) int8.
        multipliers: (r,) uint8, n_j.
        unit: u, a float32 number of shape (), a power of two.
        steps: (C,) uint8 above 0, k_c.
        step_unit: v, a positive float32 number of shape ().
        apart: it runs beside the main path and is merged into nothing; steps are 1.
        concat: it is apart, and what A gives are codes of 8 bits beside those of the layer's input.

    Raises:
        FormatError: shapes do not fit, or the unit is no power of two.
    """

    b: I8
    a: I8
    multipliers: U8
    unit: F32
    steps: U8
    step_unit: F32
    apart: bool = False
    concat: bool = False

    def __post_init__(self) -> None:
        r = self.multipliers.size
        if self.b.shape != (self.steps.size, r) or self.a.shape[:1] != (r,) or self.unit.shape != ():
            raise FormatError(f"factors of shape {self.b.shape} and {self.a.shape} for {r} multipliers")
        if self.step_unit.shape != () or not self.step_unit > 0 or not self.steps.all():
            raise FormatError("the steps of a merged image are positive")
        if np.frexp(self.unit)[0] != 0.5:
            raise FormatError(f"the unit of a side path is a power of two, not {float(self.unit)}")

    @property
    def rank(self) -> int:
        """Columns of B."""
        return int(self.multipliers.size)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return sum(v.nbytes for v in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is stored, by the names that bodies give it."""
        names = ("b", "a", "multipliers", "unit", *(() if self.apart else ("steps", "step_unit")))
        return {f"side_{name}": getattr(self, name) for name in names}

    def factors(self) -> tuple[F32, F32]:
        """B in units of the main path's scales (C, r), and A (r, K); exact."""
        left = self.b.astype(np.float32) * self.multipliers.astype(np.float32) * self.unit
        return left, self.a.astype(np.float32)

    def product(self) -> F32:
        """B A in units of the main path's scales, (C, K), exact."""
        left, right = self.factors()
        if self.concat:
            return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
        return np.asarray(left @ right, np.float32)

    def row_steps(self) -> F32:
        """t, (C,)."""
        return np.asarray(self.steps.astype(np.float32) * self.step_unit, np.float32)

    def is_exact(self, largest: int) -> bool:
        """Whether V, and all sums on the way to it, are whole numbers of the unit below 2^24 while |w8| <= largest.

        Of a path apart also whether sums of A times codes of 8 bits are below 2^24.
        """
        if self.apart and int(np.abs(self.a.astype(np.int64)).sum(axis=1).max(initial=0)) > MOST_SUM:
            return False
        left, right = (np.abs(f.astype(np.float64)) for f in self.factors())
        most = largest + float((left @ right).max(initial=0))
        limit = _EXACT_IN_FLOAT64 if self.concat else _EXACT
        return bool(self.unit <= 1) and most < limit * float(self.unit)

    def digest(self) -> bytes:
        """SHA-256 over factors and scales."""
        h = hashlib.sha256(f"{self.b.shape} {self.a.shape}{' concat' * self.concat}\n".encode())
        for array in self.arrays().values():
            h.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        return h.digest()


def side_path(
    b: Real, a: Real, w8: I8, scale: F32, *, largest: int = 128, apart: bool = False
) -> SidePath | None:
    """Factors in 8 bits, each rank in a range of its own, beside a main path; None where they are zero.

    Args:
        b: (C, r).
        a: (r, K).
        w8: (C, K) image of the main path: the merged image is just wide enough for it.
        scale: (C,) or () its scale.
        largest: magnitude that the image of other codes may have; sums stay exact for them.
        apart: the path runs beside the main path.

    Raises:
        FormatError: a rank above MOST_RANK, numbers that are not finite.
    """
    checked(b, a)
    left, right = in_units(b, scale), np.asarray(a, np.float64)
    of_left, of_right = np.abs(left).max(axis=0, initial=0), np.abs(right).max(axis=1, initial=0)
    sizes = of_left * of_right / LARGEST**2  # of one step of both factors
    alive = sizes > 2.0**-_FINEST
    if not alive.any():
        return None
    left, right, of_right, of_left = left[:, alive], right[alive], of_right[alive], of_left[alive]
    levels = _levels(right, of_right) if apart else np.full(len(right), float(LARGEST))
    a8 = np.rint(right * (levels / of_right)[:, None]).astype(np.int8)
    sizes = of_left * of_right / (LARGEST * levels)
    finest = int(np.floor(np.log2(_MOST_MULTIPLIER / sizes.max())))
    for power in range(min(finest, _FINEST), -1, -1):
        n = np.clip(np.ceil(sizes * 2.0**power), 1, _MOST_MULTIPLIER)
        whole = np.rint(left * (of_right / levels * 2.0**power / n))
        b8 = np.clip(whole, -LARGEST, LARGEST).astype(np.int8)
        unit = np.asarray(2.0**-power, np.float32)
        ones = np.ones(len(b8), np.uint8), np.ones((), np.float32)
        path = SidePath(b8, a8, n.astype(np.uint8), unit, *ones, apart)
        if path.is_exact(largest):
            return path if apart else _with_steps(path, w8)
    return None  # it would be millions of times the main path


def _levels(right: F64, largest: F64) -> F64:
    """The number that the largest element of each row of A becomes: as much as its sum of magnitudes allows."""
    sums = np.abs(right).sum(axis=1) / largest  # of a row whose largest element is 1
    room = (MOST_SUM - right.shape[1] / 2) / sums  # half a step of rounding each
    return np.asarray(np.clip(np.floor(room), 1, LARGEST))


def merged_image(w8: I8, scale: F32, path: SidePath) -> tuple[I8, F32]:
    """The int8 image of weights with their side path, and its scale.

    Args:
        w8: (C, K) image of the main path.
        scale: (C,) or () its scale, float32.
        path: of that layer.

    Returns:
        w8' (C, K) and its scale (C,).
    """
    steps = path.row_steps()
    image = clipped((w8.astype(np.float32) + path.product()) / steps[:, None]).astype(np.int8)
    return image, np.asarray(np.broadcast_to(scale.reshape(-1), (len(w8),)) * steps, np.float32)


def clipped(values: F32) -> F32:
    """Rounded half to even and clipped to int8."""
    return np.clip(np.rint(values), -LARGEST - 1, LARGEST)


def _with_steps(path: SidePath, w8: I8) -> SidePath:
    """With steps that let the merged image reach 127 in its largest row, and a little less in others."""
    reach = np.abs(w8.astype(np.float64) + path.product()).max(axis=1, initial=0)
    unit = np.float32(max(reach.max(initial=0), _LEAST_REACH) / LARGEST / _MOST_MULTIPLIER)
    steps = np.clip(np.ceil(reach / LARGEST / np.float64(unit)), 1, _MOST_MULTIPLIER)
    return replace(path, steps=steps.astype(np.uint8), step_unit=np.asarray(unit, np.float32))


def checked(b: Real, a: Real) -> None:
    """Refuse factors that no path can hold.

    Raises:
        FormatError: a rank above MOST_RANK, numbers that are not finite.
    """
    if b.shape[1] > MOST_RANK:
        raise FormatError(f"a side path of rank {b.shape[1]}, of more than {MOST_RANK}")
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        raise FormatError("factors hold NaN or infinity")


def in_units(b: Real, scale: F32) -> F64:
    """B over the scales of its rows; what is rounding noise beside other rows is zero."""
    wide = np.asarray(b, np.float64)
    wide = np.where(np.abs(wide) < _NOISE * np.abs(wide).max(axis=0, initial=0), 0.0, wide)
    return np.asarray(wide / np.broadcast_to(scale.reshape(-1), (len(b),)).astype(np.float64)[:, None])
