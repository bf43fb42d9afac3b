"""Which bytes a descriptor touches, and whether two descriptors can touch the same ones."""

from dataclasses import dataclass

from lpcompile.backends.cim.program import DTYPE_BYTES, Descriptor


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes of one access.

    Attributes:
        first, end: bounding interval.
        dims: (count, stride) of axes with more than one index, widest stride first.
        item: bytes of an element.
    """

    first: int
    end: int
    dims: tuple[tuple[int, int], ...]
    item: int

    @classmethod
    def of(cls, d: Descriptor) -> "Region":
        """The bytes of a descriptor at REPEAT indices 0."""
        item = DTYPE_BYTES[d.dtype]
        dims = tuple(sorted(((n, s) for n, s in d.dims if n > 1 and s), key=lambda x: -x[1]))
        return cls(d.base, d.base + sum((n - 1) * s for n, s in dims) + item, dims, item)

    @property
    def dense(self) -> bool:
        """Whether it holds every byte of its interval."""
        step = self.item
        for n, s in reversed(self.dims):
            if s > step:
                return False
            step = max(step, (n - 1) * s + step)
        return True

    def holds(self, other: "Region") -> bool:
        """Whether every byte of the other lies in it (only said where that is plain)."""
        return self.first <= other.first and other.end <= self.end and self.dense

    def overlaps(self, other: "Region") -> bool:
        """Whether a byte may lie in both: exact for intervals and for slices of one pitch, else it says yes."""
        if self.end <= other.first or other.end <= self.first:
            return False
        for _, pitch in (*self.dims, *other.dims):
            a, b = self._width(pitch), other._width(pitch)
            if a is not None and b is not None:
                ra, rb = self.first % pitch, other.first % pitch
                if (rb - ra) % pitch >= a and (ra - rb) % pitch >= b:
                    return False
        return True

    def _width(self, pitch: int) -> int | None:
        """The w <= pitch for which the bytes are base + multiples of `pitch` + [0, w); None where they are not."""
        width = self.item
        for n, s in self.dims:
            if s >= pitch:
                if s % pitch:
                    return None
            else:
                width += (n - 1) * s
        return width if width <= pitch else None
