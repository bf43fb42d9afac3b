"""Which values each place of the memories can hold: what is known about a program before any data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DTYPE_RANGES, Program, Space
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.memory import Memory
from lpcompile.backends.cim.simulator.operands import Operand


@dataclass(frozen=True)
class ValueRange:
    """Bounds of the elements of an operand.

    Attributes:
        low, high: of every element.
        values: the elements, where they are constants.
    """

    low: int
    high: int
    values: NDArray[Any] | None = None

    @classmethod
    def of(cls, values: NDArray[Any]) -> "ValueRange":
        """The range of constants."""
        return cls(int(values.min()), int(values.max()), values)

    @classmethod
    def any(cls, dtype: str) -> "ValueRange":
        """All values of a dtype."""
        return cls(*DTYPE_RANGES[dtype])


@dataclass(frozen=True)
class _Written:
    operand: Operand
    range: ValueRange


class RangeMemory:
    """The memories, with a number at each byte that says which write it comes from.

    Args:
        program: its constants are known, unless something is written over them.
        capacities: sizes of the memories.
    """

    def __init__(self, program: Program, capacities: Capacities) -> None:
        self._constants = Memory(program, capacities)
        self._constant_bytes = len(program.consts)
        self._writes: list[_Written | None] = [None]
        sizes = {-1: program.dram_bytes, -2: capacities.gb_bytes}
        sizes |= dict.fromkeys(range(len(program.cores)), capacities.lb_bytes)
        self._marks = {number: np.zeros(size, np.int32) for number, size in sizes.items()}

    def read(self, operand: Operand, core: int) -> ValueRange:
        """What the elements of an operand can be."""
        marks = self._view(operand, core)
        first, last = int(marks.min()), int(marks.max())
        if first == last == 0:
            in_dram = operand.descriptor.space == Space.DRAM
            if in_dram and operand.high <= self._constant_bytes:
                return ValueRange.of(self._constants.view(operand, core))
        elif first == last:
            written = self._writes[first]
            if written is not None and _same_elements(written.operand, operand):
                known = written.range
                whole = written.operand.base == operand.base and (
                    written.operand.descriptor.dims == operand.descriptor.dims
                )
                return known if whole else ValueRange(known.low, known.high)
        elif first > 0:
            return self._hull([self._writes[i] for i in np.unique(marks)], operand)
        return ValueRange.any(operand.descriptor.dtype)

    def write(self, operand: Operand, core: int, range_: ValueRange) -> None:
        """Take note of what was written."""
        self._writes.append(_Written(operand, range_))
        self._view(operand, core)[...] = len(self._writes) - 1

    def forget(self, operand: Operand, core: int) -> None:
        """Take note that something unknown was written."""
        self.write(operand, core, ValueRange.any(operand.descriptor.dtype))

    def _hull(self, found: list[_Written | None], operand: Operand) -> ValueRange:
        if any(w is None or not _same_elements(w.operand, operand) for w in found):
            return ValueRange.any(operand.descriptor.dtype)
        ranges = [w.range for w in found if w is not None]
        return ValueRange(min(r.low for r in ranges), max(r.high for r in ranges))

    def _view(self, operand: Operand, core: int) -> NDArray[np.int32]:
        """The numbers of all bytes of an operand; those of contiguous operands in one stretch."""
        space = operand.descriptor.space
        marks = self._marks[-1 if space == Space.DRAM else -2 if space == Space.GB else core]
        if operand.high - operand.low == operand.elements * operand.item_bytes:
            return marks[operand.low : operand.high]
        return np.ndarray(
            (*operand.counts, operand.item_bytes),
            np.int32,
            buffer=marks.data,
            offset=4 * operand.base,
            strides=(*(4 * s for s in operand.strides), 4),
        )


def _same_elements(written: Operand, read: Operand) -> bool:
    """Whether what is read begins and ends where elements that were written do."""
    if written.descriptor.dtype != read.descriptor.dtype:
        return False
    size = read.item_bytes
    return size == 1 or not any(x % size for x in (read.base - written.base, *written.strides, *read.strides))
