"""The weights of a group: read from the bit planes of a program, back to integers. [npp E4]."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Group, Program

_MOST = 1 << 16  # of a weight: a product with one 8-bit input still is exact in float32
_CHUNK_ROWS = 64


@dataclass(frozen=True)
class StoredGroup:
    """What the macros of a group hold.

    Attributes:
        group: the record.
        coefficients: of the planes.
        bits: as stored, 0 or 1, u8 (P, rows, outputs).
        flags: columns that are stored inverted, u8 (blocks, P, outputs).
        multipliers: u8 (blocks, outputs), or None.
    """

    group: Group
    coefficients: tuple[int, ...]
    bits: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    multipliers: NDArray[np.uint8] | None

    def blocks(self) -> list[slice]:
        """Rows of each block."""
        g = self.group
        return [slice(r, min(r + g.block_rows, g.rows)) for r in range(0, g.rows, g.block_rows)]

    @functools.cached_property
    def ones(self) -> NDArray[np.int64]:
        """Ones of each column as stored, (blocks, P, outputs)."""
        # the sum of a short block fits a byte, which is several times faster
        dtype: Any = np.uint8 if self.group.block_rows < 256 else np.int64
        return np.stack([self.bits[:, r].sum(axis=1, dtype=dtype) for r in self.blocks()]).astype(np.int64)

    def integers(self) -> NDArray[Any]:
        """The weights that the planes stand for, multipliers included; int8, int16 or int32 (rows, outputs).

        Raises:
            ValueError: they do not fit 16 bits.
        """
        low = sum(c for c in self.coefficients if c < 0)
        high = sum(c for c in self.coefficients if c > 0)
        most = max(-low, high) * (1 if self.multipliers is None else int(self.multipliers.max(initial=0)))
        if most > _MOST:
            raise ValueError(f"has weights up to {most}")
        dtype: Any = np.int8 if low >= -128 and high <= 127 else np.int16 if most < 1 << 15 else np.int32
        found = np.zeros(self.bits.shape[1:], dtype)
        # a wrapped coefficient (128 in int8) is harmless: the sum is in range, and sums wrap back
        wrapped = np.array(self.coefficients, np.int64).astype(dtype)
        scratch = np.empty((min(_CHUNK_ROWS, self.group.block_rows), self.group.outputs), dtype)
        for block, rows in enumerate(self.blocks()):
            for start in range(rows.start, rows.stop, _CHUNK_ROWS):
                part = slice(start, min(start + _CHUNK_ROWS, rows.stop))
                into = scratch[: part.stop - part.start]
                for plane, coefficient in enumerate(wrapped):
                    bits = self.bits[plane, part] ^ self.flags[block, plane]
                    np.multiply(bits.view(np.int8), coefficient, out=into)
                    found[part] += into
        if self.multipliers is None:
            return found
        wide = found.astype(np.int32)
        for block, rows in enumerate(self.blocks()):
            wide[rows] *= self.multipliers[block].astype(np.int32)
        return wide


def read_group(program: Program, group: Group) -> StoredGroup:
    """Cut a group out of the weights section.

    Raises:
        ValueError: the record contradicts itself or leaves the section.
    """
    if min(group.rows, group.outputs, group.block_rows, group.across, group.down, group.pages) < 1:
        raise ValueError("is empty")
    if min(group.row0, group.first_macro, group.page0, group.offset) < 0:
        raise ValueError("starts below zero")
    if not 0 <= group.planes < len(program.plane_sets):
        raise ValueError(f"names no plane set {group.planes}")
    coefficients = program.plane_sets[group.planes].coefficients
    for c in coefficients:
        if c == 0 or abs(c) & (abs(c) - 1) or abs(c) > _MOST:
            raise ValueError(f"has a plane coefficient {c}, not a signed power of two up to 2^16")
    if not coefficients:
        raise ValueError("has no planes")
    if group.blocks > group.down * group.pages:
        raise ValueError(f"has {group.blocks} blocks on {group.down} x {group.pages} pages")
    planes, columns = len(coefficients), group.blocks * len(coefficients) * group.outputs
    cells = planes * group.rows * group.outputs
    ends = [group.offset, group.offset + -(-cells // 8)]
    ends.append(ends[-1] + -(-columns // 8))
    ends.append(ends[-1] + (group.blocks * group.outputs if group.multipliers else 0))
    if ends[-1] > len(program.weights):
        raise ValueError(f"ends at byte {ends[-1]} of the weights, which have {len(program.weights)}")
    section = np.frombuffer(program.weights, np.uint8)
    bits = np.unpackbits(section[ends[0] : ends[1]], count=cells, bitorder="little")
    flags = np.unpackbits(section[ends[1] : ends[2]], count=columns, bitorder="little")
    multipliers = (
        section[ends[2] : ends[3]].reshape(group.blocks, group.outputs) if group.multipliers else None
    )
    return StoredGroup(
        group,
        coefficients,
        bits.reshape(planes, group.rows, group.outputs),
        flags.reshape(group.blocks, planes, group.outputs),
        multipliers,
    )
