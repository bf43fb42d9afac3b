"""A low-rank side path in 8 bits, and the int8 image of weights that it is merged into.

    B A ~ u * sum_j n_j b8_j a8_j      b8 (C, r), a8 (r, K) int8; n_j, one 8-bit integer a rank, and u one float32 are
                                       the scales of A's rows times those of B's columns

The sum is one of integers below 2^24, so that float32 holds it exactly whatever the order of adding. Merging is
arithmetic of single elements in float32, each result rounded once, so it is the same bits in numpy and in a graph:

    V = s_c * w8 + u * sum;    t_c = max(max_k |V|, 2^-100) / 127;    w8' = rint(V / t_c)

The merged image reaches 127 in every row, and t_c is the scale of the row. [architecture 3.2, 3.6]
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, I8, U8, Real

LARGEST = 127
LEAST_REACH = np.float32(2.0**-100)  # of a row: keeps its scale a normal number
MOST_RANK = 512
_EXACT = 1 << 24
_MOST_MULTIPLIER = 255


@dataclass(frozen=True, slots=True, eq=False)
class SidePath:
    """The factors of one layer.

    Attributes:
        b: (C, r) int8.
        a: (r, K) int8.
        multipliers: (r,) uint8, n_j.
        unit: u, a float32 number of shape ().

    Raises:
        FormatError: shapes do not fit, or a sum might not be exact in float32.
    """

    b: I8
    a: I8
    multipliers: U8
    unit: F32

    def __post_init__(self) -> None:
        r = self.multipliers.size
        if self.b.shape[1:] != (r,) or self.a.shape[:1] != (r,) or self.unit.shape != ():
            raise FormatError(f"factors of shape {self.b.shape} and {self.a.shape} for {r} multipliers")
        if _reach(self.b, self.a, self.multipliers) >= _EXACT:
            raise FormatError("the products of these factors are too large to be exact in float32")

    @property
    def rank(self) -> int:
        """Columns of B."""
        return int(self.multipliers.size)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return self.b.nbytes + self.a.nbytes + self.multipliers.nbytes + self.unit.nbytes

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is stored, by the names that bodies give it."""
        return {
            "side_b": self.b,
            "side_a": self.a,
            "side_multipliers": self.multipliers,
            "side_unit": self.unit,
        }

    def product(self) -> F32:
        """B A, (C, K) float32: exact sums times the unit."""
        scaled = self.b.astype(np.float32) * self.multipliers.astype(np.float32)
        return np.asarray(scaled @ self.a.astype(np.float32) * self.unit, np.float32)

    def digest(self) -> bytes:
        """SHA-256 over factors and scales."""
        h = hashlib.sha256(f"{self.b.shape} {self.a.shape}\n".encode())
        for array in (self.b, self.a, self.multipliers, np.asarray(self.unit, "<f4")):
            h.update(np.ascontiguousarray(array).tobytes())
        return h.digest()


def side_path(b: Real, a: Real) -> SidePath | None:
    """Factors in 8 bits, each rank in the range of its own; None where they are zero.

    Args:
        b: (C, r).
        a: (r, K).

    Raises:
        FormatError: a rank above MOST_RANK, numbers that are not finite.
    """
    if b.shape[1] > MOST_RANK:
        raise FormatError(f"a side path of rank {b.shape[1]}, of more than {MOST_RANK}")
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        raise FormatError("factors hold NaN or infinity")
    steps = (np.abs(f.astype(np.float64)).max(axis=axis, initial=0) / LARGEST for f, axis in ((b, 0), (a, 1)))
    of_b, of_a = steps
    sizes = of_b * of_a
    alive = sizes > np.finfo(np.float32).tiny * _MOST_MULTIPLIER
    if not alive.any():
        return None
    b, a, of_a, sizes = b[:, alive], a[alive], of_a[alive], sizes[alive]
    a8 = np.rint(a / of_a[:, None]).astype(np.int8)
    most = _MOST_MULTIPLIER
    while True:
        unit = np.float32(sizes.max() / most)
        n = np.clip(np.ceil(sizes / np.float64(unit)), 1, most)
        levels = np.rint(b * (of_a / (n * np.float64(unit))))
        b8, multipliers = np.clip(levels, -LARGEST, LARGEST).astype(np.int8), n.astype(np.uint8)
        if _reach(b8, a8, multipliers) < _EXACT:
            return SidePath(b8, a8, multipliers, np.asarray(unit, np.float32))
        most //= 2


def merged_image(w8: I8, scale: F32, path: SidePath) -> tuple[I8, F32]:
    """The int8 image of weights with their side path, and its scale.

    Args:
        w8: (C, K) image of the main path.
        scale: (C,) or () its scale, float32.
        path: of that layer.

    Returns:
        w8' (C, K) and t (C,).
    """
    column = np.broadcast_to(scale.reshape(-1), (len(w8),))[:, None]
    values = w8.astype(np.float32) * column + path.product()
    reach = np.maximum(np.abs(values).max(axis=1), LEAST_REACH)
    merged_scale = (reach / np.float32(LARGEST)).astype(np.float32)
    return np.rint(values / merged_scale[:, None]).astype(np.int8), merged_scale


def _reach(b: I8, a: I8, multipliers: U8) -> float:
    scaled = np.abs(b.astype(np.float64)) * multipliers
    return float((scaled @ np.abs(a.astype(np.float64))).max(initial=0))
