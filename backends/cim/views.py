"""Tensors as strided views of a buffer: transposing, slicing and most reshaping move no byte."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from lpcompile.backends.cim.program import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class View:
    """A tensor over some bytes of a buffer.

    Attributes:
        buffer: number of the buffer.
        dtype: u8, i8, i16, i32.
        shape: logical shape, as the graph has it.
        strides: bytes from one index to the next along each axis; 0 repeats.
        offset: bytes from the buffer's start.
    """

    buffer: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def transposed(self, order: Sequence[int]) -> "View":
        """Axes in another order."""
        return replace(
            self, shape=tuple(self.shape[i] for i in order), strides=tuple(self.strides[i] for i in order)
        )

    def taken(self, axis: int, start: int, count: int, step: int = 1) -> "View":
        """`count` indices of an axis from `start` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis] = count
        strides[axis] *= step
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def dropped(self, axis: int) -> "View":
        """Without an axis of one index."""
        return replace(
            self,
            shape=self.shape[:axis] + self.shape[axis + 1 :],
            strides=self.strides[:axis] + self.strides[axis + 1 :],
        )

    def expanded(self, shape: Sequence[int]) -> "View":
        """Broadcast to a shape by numpy's rules: stride 0 where an index repeats."""
        missing = len(shape) - len(self.shape)
        own = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides
        return replace(
            self,
            shape=tuple(shape),
            strides=tuple(0 if o == 1 and n != 1 else s for o, n, s in zip(own, shape, strides, strict=True)),
        )

    def reshaped(self, shape: Sequence[int]) -> "View | None":
        """The same elements in row-major order under another shape; None where that would need a copy."""
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        merged: list[list[int]] = []  # runs of axes that lie one after the other
        for n, s in old:
            if merged and merged[-1][1] == n * s:
                merged[-1] = [merged[-1][0] * n, s]
            else:
                merged.append([n, s])
        strides: list[int] = []
        for n in reversed(tuple(shape)):
            if n == 1:
                strides.append(0)
                continue
            if not merged or merged[-1][0] % n:
                return None
            strides.append(merged[-1][1])
            merged[-1] = [merged[-1][0] // n, merged[-1][1] * n]
            if merged[-1][0] == 1:
                merged.pop()
        return replace(self, shape=tuple(shape), strides=tuple(reversed(strides)))


def packed_strides(shape: Sequence[int], order: Sequence[int], item: int) -> tuple[int, ...]:
    """Strides that put the axes into memory in `order`, slowest first."""
    strides, step = [0] * len(shape), item
    for axis in reversed(order):
        strides[axis] = step
        step *= max(1, shape[axis])
    return tuple(strides)


def channels_last(rank: int) -> tuple[int, ...]:
    """Axis 1 fastest: (N, spatial..., C)."""
    return tuple(range(rank)) if rank < 3 else (0, *range(2, rank), 1)


Dims = tuple[tuple[int, int], ...]


def merged_dims(counts: Sequence[int], *strides: Sequence[int]) -> tuple[Dims, ...]:
    """Axes of several arrays of equal counts, merged where all of them lie one after the other; ones left out.

    Returns:
        For each array its (count, stride) pairs; every array has the same counts, at least one axis.
    """
    axes = [(n, *s) for n, *s in zip(counts, *strides, strict=True) if n != 1]
    found: list[tuple[int, ...]] = []
    for n, *s in axes:
        if found and all(a == n * b for a, b in zip(found[-1][1:], s, strict=True)):
            found[-1] = (found[-1][0] * n, *s)
        else:
            found.append((n, *s))
    if not found:
        found = [(1, *[0] * len(strides))]
    return tuple(tuple((f[0], f[1 + i]) for f in found) for i in range(len(strides)))
