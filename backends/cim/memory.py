"""Places of tensors while a stage is lowered: buffers with addresses, and tiles in the local buffer of a core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from lpcompile.backends.cim.program import DTYPE_BYTES, Descriptor, Space, Window
from lpcompile.backends.cim.streams import LB_BUFFER, Access
from lpcompile.backends.cim.views import Dims, View, packed_strides

ALIGN = 8


@dataclass(frozen=True, slots=True)
class Place:
    """An array in memory: where, and with which strides along its axes."""

    space: Space
    dtype: str
    base: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    buffer: int = LB_BUFFER

    def part(self, ranges: Sequence[tuple[int, int]]) -> "Place":
        """A range of each axis; axes beyond those given stay whole."""
        shape, base = list(self.shape), self.base
        for axis, (first, stop) in enumerate(ranges):
            base += first * self.strides[axis]
            shape[axis] = stop - first
        return Place(self.space, self.dtype, base, tuple(shape), self.strides, self.buffer)

    def access(
        self,
        dims: Dims | None = None,
        *,
        window: Window | None = None,
        bits: int = 8,
        zero: int = 0,
        requant: int = -1,
    ) -> Access:
        """As an operand; `dims` replaces shape and strides."""
        dims = tuple(zip(self.shape, self.strides, strict=True)) if dims is None else dims
        return Access(
            Descriptor(
                self.space,
                self.dtype,
                self.base,
                dims,
                window=window,
                bits=bits,
                zero=zero,
                requant=requant,
            ),
            self.buffer,
        )


@dataclass(frozen=True)
class Addresses:
    """Where the buffers of a stage stand: space and first byte by buffer, and those of the constants."""

    of_buffer: Mapping[int, tuple[Space, int]]
    consts: tuple[Space, int] = (Space.DRAM, 0)

    def place(self, view: View) -> Place:
        """The place of a view."""
        space, base = self.of_buffer[view.buffer]
        return Place(space, view.dtype, base + view.offset, view.shape, view.strides, view.buffer)


class Local:
    """Tiles in a local buffer, `copies` of each, taken in turn so that queues can overlap."""

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.used = 0

    def tiles(self, dtype: str, shape: Sequence[int], *, copies: int | None = None) -> list[Place]:
        """Room for dense tiles of at most this shape."""
        size = -(-max(1, prod(shape)) * DTYPE_BYTES[dtype] // ALIGN) * ALIGN
        found = []
        for _ in range(self.copies if copies is None else copies):
            found.append(tile(dtype, self.used, shape))
            self.used += size
        return found


def tile(dtype: str, base: int, shape: Sequence[int]) -> Place:
    """A dense array in a local buffer."""
    order = range(len(shape))
    return Place(Space.LB, dtype, base, tuple(shape), packed_strides(shape, tuple(order), DTYPE_BYTES[dtype]))
