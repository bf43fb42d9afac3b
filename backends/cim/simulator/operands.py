"""Descriptors as an operation sees them: moved by its REPEAT indices, checked against the memory they lie in."""

import math
from dataclasses import dataclass

from lpcompile.backends.cim.program import DTYPE_BYTES, MAX_DIMS, Descriptor, Group, Program, Space
from lpcompile.backends.cim.simulator.capacities import Capacities, Limits
from lpcompile.backends.cim.simulator.streams import Operation

NUMPY = {"u8": "u1", "i8": "i1", "i16": "<i2", "i32": "<i4"}

_MOST_KNOWN = 1 << 17


@dataclass(frozen=True, slots=True)
class Operand:
    """A descriptor at one execution.

    Attributes:
        descriptor: the record.
        base: first byte, REPEAT indices included.
        low, high: bounds of the bytes it touches, high excluded.
    """

    descriptor: Descriptor
    base: int
    low: int
    high: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return tuple(n for n, _ in self.descriptor.dims)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from element to element along each axis."""
        return tuple(s for _, s in self.descriptor.dims)

    @property
    def elements(self) -> int:
        """Elements in all."""
        return math.prod(self.counts)

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return DTYPE_BYTES[self.descriptor.dtype]


class Operands:
    """Resolves and checks the operands of operations."""

    def __init__(self, program: Program, capacities: Capacities, limits: Limits) -> None:
        self.program = program
        self.capacities = capacities
        self.limits = limits
        self._known: dict[tuple[int, int, bool], Operand] = {}
        self._bytes = {
            Space.DRAM: program.dram_bytes,
            Space.GB: capacities.gb_bytes,
            Space.LB: capacities.lb_bytes,
        }

    def resolve(self, operation: Operation, number: int, *, writes: bool = False) -> Operand:
        """Descriptor `number` for an operation.

        Raises:
            ProgramError: no such descriptor, malformed, or outside its memory.
        """
        if not 0 <= number < len(self.program.descriptors):
            raise operation.fault(f"there is no descriptor {number}")
        descriptor = self.program.descriptors[number]
        base = descriptor.base
        if descriptor.levels and operation.indices:
            base += sum(s * i for s, i in zip(descriptor.levels, operation.indices, strict=False))
        found = self._known.get((number, base, writes))
        if found is None:
            try:
                found = self.checked(descriptor, base, writes=writes)
            except ValueError as error:
                raise operation.fault(f"descriptor {number} {error}") from None
            if len(self._known) < _MOST_KNOWN:
                self._known[number, base, writes] = found
        return found

    def checked(self, descriptor: Descriptor, base: int, *, writes: bool) -> Operand:
        """A descriptor moved to `base`.

        Raises:
            ValueError: what is wrong with it.
        """
        size = DTYPE_BYTES.get(descriptor.dtype)
        if size is None:
            raise ValueError(f"has no dtype '{descriptor.dtype}'")
        if descriptor.space not in self._bytes:
            raise ValueError(f"lies in no memory '{descriptor.space}'")
        if len(descriptor.dims) > MAX_DIMS:
            raise ValueError(f"has more than {MAX_DIMS} axes")
        low, high, elements = base, base + size, 1
        for count, stride in descriptor.dims:
            if count < 1:
                raise ValueError("has an empty axis")
            elements *= count
            reach = (count - 1) * stride
            low, high = (low, high + reach) if reach > 0 else (low + reach, high)
        if elements > self.limits.elements:
            raise ValueError(f"has {elements} elements, more than the limit of {self.limits.elements}")
        if not 0 <= low < high <= self._bytes[Space(descriptor.space)]:
            raise ValueError(
                f"touches bytes {low} to {high} of {descriptor.space}, which has {self._bytes[Space(descriptor.space)]}"
            )
        if writes and not _distinct(descriptor, size):
            raise ValueError("writes an element twice")
        return Operand(descriptor, base, low, high)

    def group(self, operation: Operation) -> tuple[int, Group]:
        """The group of operand a, moved by the REPEAT indices.

        Raises:
            ProgramError: there is none.
        """
        number = operation.instruction.a
        if 0 <= number < len(self.program.groups):
            steps = self.program.groups[number].step
            number += sum(s * i for s, i in zip(steps, operation.indices, strict=False))
        if not 0 <= number < len(self.program.groups):
            raise operation.fault(f"there is no group {number}")
        return number, self.program.groups[number]


def _distinct(descriptor: Descriptor, size: int) -> bool:
    """Whether no two elements share a byte (sufficient: each axis steps over all that is inside it)."""
    reach = size
    for stride, count in sorted((abs(s), n) for n, s in descriptor.dims if n > 1):
        if stride < reach:
            return False
        reach += (count - 1) * stride
    return True
