"""The MVM plane by plane: ones of input plane AND weight plane, converted, shifted, added. [npp E4, E5].

All pairs of planes of one block are one matrix product of zeros and ones, whose sums are counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.weights import StoredGroup

_EXACT = 1 << 24
_CHUNK_COUNTS = 1 << 18  # counts that are held at a time: they stay in the cache


@dataclass(frozen=True)
class PlaneBlock:
    """One block of rows, ready for products.

    Attributes:
        rows: of the group.
        bits: as stored, float32 (rows, P * outputs).
        signed: coefficient of each column, negative where it is stored inverted, (P, outputs).
        on: what each input one adds by way of inverted columns, (outputs,).
        multiplier: (outputs,), or None.
    """

    rows: slice
    bits: NDArray[np.float32]
    signed: NDArray[np.float64]
    on: NDArray[np.float64]
    multiplier: NDArray[np.int64] | None


def plane_blocks(stored: StoredGroup) -> list[PlaneBlock]:
    """The blocks of a group."""
    coefficients = np.array(stored.coefficients, np.float64)[:, None]
    found = []
    for index, rows in enumerate(stored.blocks()):
        flags = stored.flags[index]
        bits = stored.bits[:, rows].transpose(1, 0, 2).reshape(rows.stop - rows.start, -1)
        found.append(
            PlaneBlock(
                rows,
                bits.astype(np.float32),
                np.where(flags, -coefficients, coefficients),
                (coefficients * flags).sum(axis=0),
                None if stored.multipliers is None else stored.multipliers[index].astype(np.int64),
            )
        )
    return found


def explicit(
    x: NDArray[np.uint8],
    planes: Sequence[tuple[int, int]],
    blocks: Sequence[PlaneBlock],
    converter: Converter,
) -> tuple[NDArray[np.int64], int]:
    """Sums of all positions, and how many conversions read something else than the count.

    Args:
        x: bytes of the inputs, (positions, rows).
        planes: (bit, coefficient) of the input planes in use.
        blocks: of the group.
        converter: of the machine.

    Returns:
        int64 (positions, outputs), and the number of changed conversions.
    """
    outputs = blocks[0].signed.shape[1]
    total = np.zeros((len(x), outputs), np.int64)
    changed = 0
    columns = blocks[0].signed.size
    step = max(1, _CHUNK_COUNTS // (columns * len(planes)))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        for block in blocks:
            sums, moved = _block(part[:, block.rows], planes, block, converter)
            total[start : start + step] += sums
            changed += moved
    return total, changed


def _block(
    x: NDArray[np.uint8], planes: Sequence[tuple[int, int]], block: PlaneBlock, converter: Converter
) -> tuple[NDArray[Any], int]:
    n, rows = x.shape
    bits = np.empty((len(planes), n, rows), np.float32)
    for index, (bit, _) in enumerate(planes):
        bits[index] = (x >> np.uint8(bit)) & np.uint8(1)
    counts = bits.reshape(-1, rows) @ block.bits
    changed = converter.convert(counts, rows)
    weight = np.array([c for _, c in planes], np.float64)
    # inputs first, then weights; in float32 where all sums are exact there
    most = rows * np.abs(weight).sum() * np.abs(block.signed).sum(axis=0).max()
    kind: Any = np.float32 if most < _EXACT else np.float64
    by_input = np.tensordot(weight.astype(kind), counts.reshape(len(planes), -1).astype(kind, copy=False), 1)
    columns = by_input.reshape(n, *block.signed.shape)
    sums = np.einsum("npo,po->no", columns, block.signed.astype(kind))
    if block.on.any():
        ones = np.tensordot(weight, bits.sum(axis=2, dtype=np.float64), 1)  # (n,)
        sums = sums + ones[:, None] * block.on
    exact = sums.astype(np.int64)
    return (exact if block.multiplier is None else exact * block.multiplier), changed
