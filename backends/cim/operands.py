"""Sizes of what an instruction works on: elements and bytes of a descriptor, and the shape of a matrix product."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.planes import cells_of
from lpcompile.backends.cim.program import DTYPE_BYTES, Descriptor, Group, Instruction, Program


def positions_of(source: Descriptor) -> int:
    """Positions of a matrix product's source: window positions, or all axes but the last."""
    counts = source.counts
    if source.window is None:
        return math.prod(counts[:-1])
    spatial = len(source.window.kernel)
    outer, inner = counts[: -1 - spatial], counts[-1 - spatial : -1]
    return math.prod(outer) * math.prod(source.window.out_counts(inner))


def elements_of(operand: Descriptor) -> int:
    """Elements that are read through a descriptor; a windowed one is read once a position."""
    if operand.window is None:
        return math.prod(operand.counts)
    return positions_of(operand) * math.prod(operand.window.kernel) * operand.counts[-1]


def bytes_of(operand: Descriptor) -> int:
    """Bytes that are read or written through a descriptor."""
    return elements_of(operand) * DTYPE_BYTES[operand.dtype]


def unwindowed_bytes_of(operand: Descriptor) -> int:
    """Bytes of the elements that a descriptor holds, windows aside."""
    return math.prod(operand.counts) * DTYPE_BYTES[operand.dtype]


def planes_of(source: Descriptor) -> int:
    """Input planes of an MVM's source."""
    return source.bits if source.dtype == "u8" else 8 * DTYPE_BYTES[source.dtype]


def group_index(program: Program, instruction: Instruction, indices: Sequence[int]) -> int:
    """The group that an instruction means under the indices of its REPEATs, innermost first."""
    step = program.groups[instruction.a].step
    return instruction.a + sum(s * i for s, i in zip(step, indices, strict=False))


@dataclass(frozen=True, slots=True)
class Product:
    """The shape of one MVM or MVMP.

    Attributes:
        positions: of the window.
        rows, outputs: of the group.
        planes: input planes that it applies.
        steps: array steps a position and block; fewer than planes where several go in at once.
        blocks: row blocks.
        rounds: blocks that one macro reads one after the other.
        columns: columns read a step and block, over all macros.
        macro_columns: the most of them that one macro has.
        crossed: columns that a driven row crosses, used or not.
    """

    positions: int
    rows: int
    outputs: int
    planes: int
    steps: int
    blocks: int
    rounds: int
    columns: int
    macro_columns: int
    crossed: int

    @property
    def macs(self) -> float:
        """Products of a weight and an activation."""
        return self.positions * self.rows * self.outputs


def product_of(
    machine: MachineDescription, program: Program, instruction: Instruction, group: Group
) -> Product:
    """The shape of an MVM or MVMP with a group of the program."""
    source = program.descriptors[instruction.b]
    planes = 1 if instruction.mnemonic == "MVMP" else planes_of(source)
    cells = cells_of(program.plane_sets[group.planes], machine.macro.bits_per_cell)
    return Product(
        positions=positions_of(source),
        rows=group.rows,
        outputs=group.outputs,
        planes=planes,
        steps=-(-planes // machine.macro.input_bits_per_cycle),
        blocks=group.blocks,
        rounds=-(-group.blocks // group.down),
        columns=group.outputs * cells,
        macro_columns=min(-(-group.outputs // group.across) * cells, machine.macro.columns),
        crossed=group.across * machine.macro.columns,
    )
