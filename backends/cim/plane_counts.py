"""Ones in the weight planes of a program: with the ones in the inputs they give every hit in closed form.

Hits of input plane i and weight plane j: `sum_r on[r, i] * ones[r, j]`, exact, without expanding any plane pair.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Group, Program

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """What is stored for one group.

    Attributes:
        ones: cells that hold a one, over planes and outputs. (rows,)
        total: all of them.
        block_rows: rows of the blocks that hold an inverted column, in all.
        corrected: outputs with an inverted column, over the blocks.
    """

    ones: I64
    total: int
    block_rows: int
    corrected: int


@dataclass
class PlaneCounts:
    """Counts of a program's groups, taken when first asked for."""

    program: Program
    _found: dict[int, GroupCounts] = field(default_factory=dict)

    def __getitem__(self, index: int) -> GroupCounts:
        if index not in self._found:
            self._found[index] = _count(self.program, self.program.groups[index])
        return self._found[index]


def stored_planes(program: Program, group: Group) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bits as stored: planes (P, rows, outputs) and complement flags (blocks, P, outputs)."""
    planes = len(program.plane_sets[group.planes].coefficients)
    bits, end = _bits(program.weights, group.offset, (planes, group.rows, group.outputs))
    flags, _ = _bits(program.weights, end, (group.blocks, planes, group.outputs))
    return bits, flags


def _bits(data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], int]:
    size = int(np.prod(shape))
    end = offset + -(-size // 8)
    packed = np.frombuffer(data, np.uint8, end - offset, offset)
    return np.unpackbits(packed, bitorder="little", count=size).reshape(shape), end


def _count(program: Program, group: Group) -> GroupCounts:
    bits, flags = stored_planes(program, group)
    # a count per plane fits 32 bits and is much faster than one over both axes at once
    ones = sum((plane.sum(axis=1, dtype=np.int32) for plane in bits), np.zeros(group.rows, np.int64))
    flagged = flags.any(axis=(1, 2))
    sizes = np.minimum(group.block_rows, group.rows - group.block_rows * np.arange(group.blocks))
    return GroupCounts(
        ones=ones,
        total=int(ones.sum()),
        block_rows=int(sizes[flagged].sum()),
        corrected=int(flags.any(axis=1).sum()),
    )
