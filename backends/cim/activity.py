"""Counts the physical events of one executed instruction. [cim-machine 3].

Two modes.  `exact` takes what a simulation counted: `on[r, i]`, the positions at which input plane i of row r is
one.  `stat` takes one density a plane instead and multiplies it out; weights are known in both.  Everything else
(bytes, hops, elements) follows from the tables of the program alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.backends.cim.events import Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.operands import (
    Product,
    bytes_of,
    elements_of,
    group_index,
    positions_of,
    product_of,
    unwindowed_bytes_of,
)
from lpcompile.backends.cim.plane_counts import I64, GroupCounts, PlaneCounts
from lpcompile.backends.cim.program import (
    DTYPE_BYTES,
    INIT,
    SKIPZ,
    Descriptor,
    Group,
    Instruction,
    Program,
    Space,
)
from lpcompile.errors import ProgramError

MODES = ("stat", "exact")
MVMS = ("MVM", "MVMP")
GROUPED = (*MVMS, "WPROG")
SEQUENCING = ("NOP", "HALT", "REPEAT", "SIG", "WAIT", "BAR", "MARK", "WPAGE")
_VOP_MULTIPLY, _VRED_SQUARES = 2, 2
_READS = {Space.LB: Event.LOCAL_READ, Space.GB: Event.GLOBAL_READ}
_WRITES = {Space.LB: Event.LOCAL_WRITE, Space.GB: Event.GLOBAL_WRITE}


@dataclass(frozen=True, slots=True)
class Executed:
    """One instruction as it was executed.

    Attributes:
        core: that executed it.
        instruction: the word.
        node: the ONNX node that it serves.
        start_cycle, end_cycle: on one time line for everything that is priced together.
        on: for `exact`: positions at which a plane of a row of the group is one. (rows, planes); MVMP: (rows, 1)
        densities: for `stat`: share of ones of each input plane; None takes the machine's `input_density`.
        indices: of the enclosing REPEATs, innermost first.
        steps: array steps that were taken, summed over positions and blocks; None: all, or estimated under SKIPZ.
        clipped: conversions that left the converter's range; None: not counted.
    """

    core: int
    instruction: Instruction
    node: str
    start_cycle: int
    end_cycle: int
    on: I64 | None = None
    densities: tuple[float, ...] | None = None
    indices: tuple[int, ...] = ()
    steps: int | None = None
    clipped: int | None = None


def fixed_counts(
    machine: MachineDescription,
    program: Program,
    instruction: Instruction,
    core: int,
    indices: Sequence[int] = (),
    group: int | None = None,
) -> Counter[Event]:
    """Events that do not depend on data.

    Args:
        machine: it runs on.
        program: whose tables its operands point into.
        instruction: the word.
        core: that executes it.
        indices: of the enclosing REPEATs, innermost first.
        group: entry of the group table, where it is known already.

    Raises:
        ProgramError: there is no such instruction.
    """

    def found(known: int | None) -> Group:
        return program.groups[group_index(program, instruction, indices) if known is None else known]

    counts: Counter[Event] = Counter({Event.INSTRUCTION: 1})
    op, tables = instruction.mnemonic, program.descriptors
    if op in SEQUENCING:
        return counts
    if op in MVMS:
        _operands_of_mvm(counts, machine, program, instruction, indices, found(group))
    elif op in ("LD", "ST", "MOV"):
        _move(counts, machine, core, tables[instruction.a], tables[instruction.b])
    elif op == "SEND":
        size = bytes_of(tables[instruction.a])
        counts[Event.LOCAL_READ] += size
        counts[Event.BYTE_HOP] += size * machine.hops(core, instruction.b)
    elif op == "RECV":
        counts[Event.LOCAL_WRITE] += bytes_of(tables[instruction.a])
    elif op == "WPROG":
        written = found(group)
        planes = len(program.plane_sets[written.planes].coefficients)
        bits = planes * written.outputs * (written.rows + written.blocks)
        counts[Event.CELL_WRITE] += planes * written.outputs * written.rows
        counts[Event.DRAM_BIT] += bits
        counts[Event.BYTE_HOP] += -(-bits // 8) * machine.hops(core)
    elif op in ("VMM", "VDW"):
        _dense(counts, instruction, tables)
    else:
        _elementwise(counts, instruction, tables)
    return counts


@dataclass(frozen=True, slots=True)
class Stirred:
    """What the data of one MVM or MVMP moved; sums of these are those of several.

    Attributes:
        driven: rows and planes that were one, over positions.
        hits: of them with stored ones.
        steps: array steps that were taken, over positions and blocks.
    """

    driven: float
    hits: float
    steps: float


@dataclass(frozen=True, slots=True)
class Site:
    """Where an MVM or MVMP happens: its shape, and what its group stores."""

    group: Group
    shape: Product
    stored: GroupCounts


def site_of(
    machine: MachineDescription, program: Program, instruction: Instruction, index: int, planes: PlaneCounts
) -> Site:
    """The site of an MVM or MVMP with the group of an index."""
    group = program.groups[index]
    return Site(group, product_of(machine, program, instruction, group), planes[index])


def stirred(machine: MachineDescription, executed: Executed, mode: str, site: Site) -> Stirred:
    """What the data of an executed MVM or MVMP moved.

    Raises:
        ProgramError: `exact`, and nothing was counted.
    """
    shape, stored = site.shape, site.stored
    steps = _steps(machine, executed, mode, shape, site.group.block_rows)
    if mode == "exact":
        if executed.on is None:
            hint = "run with counting on, or price in mode 'stat'"
            raise ProgramError("an executed MVM carries no counts of its inputs", hint=hint)
        rows = executed.on.sum(axis=1, dtype=np.int64)
        return Stirred(float(rows.sum()), float(rows @ stored.ones), steps)
    density = shape.positions * sum(_densities(machine, executed, shape))
    return Stirred(density * shape.rows, density * stored.total, steps)


def mvm_counts(machine: MachineDescription, site: Site, moved: Stirred, times: int = 1) -> dict[Event, float]:
    """Events of an MVM or MVMP that depend on data, of `times` that moved so much together."""
    shape, stored = site.shape, site.stored
    columns = moved.steps * shape.columns
    return {
        Event.DRIVEN_ROW: moved.driven * site.group.across,
        Event.CROSSED_COLUMN: moved.driven * shape.crossed,
        Event.HIT: moved.hits,
        Event.COLUMN_READ: columns,
        Event.CONVERSION: columns if machine.adc is not None else 0,
        Event.SHIFT_ADD: columns,
        Event.COUNTED_ROW: moved.steps / shape.blocks * stored.block_rows,
        Event.CORRECTION: times * shape.positions * stored.corrected,
    }


def _steps(machine: MachineDescription, executed: Executed, mode: str, shape: Product, block: int) -> float:
    """Array steps, over positions and blocks; SKIPZ leaves out planes that are zero in a block."""
    everything = shape.positions * shape.steps * shape.blocks
    if not executed.instruction.flags & SKIPZ or machine.macro.input_bits_per_cycle > 1:
        return everything
    if executed.steps is not None and mode == "exact":
        return executed.steps
    if mode == "exact" and executed.on is not None:
        zero = 1.0 - executed.on / max(shape.positions, 1)  # rows taken as independent
    else:
        zero = np.tile(1.0 - np.asarray(_densities(machine, executed, shape)), (shape.rows, 1))
    empty = np.multiply.reduceat(zero, np.arange(0, shape.rows, block), axis=0)
    return float(shape.positions * (1.0 - empty).sum())


def _densities(machine: MachineDescription, executed: Executed, shape: Product) -> tuple[float, ...]:
    found = executed.densities
    if found is None:
        return (machine.energy.input_density,) * shape.planes
    if len(found) == shape.planes:
        return found
    return (found[executed.instruction.unit],)  # MVMP: one of the planes of its tensor


def _operands_of_mvm(
    counts: Counter[Event],
    machine: MachineDescription,
    program: Program,
    instruction: Instruction,
    indices: Sequence[int],
    group: Group,
) -> None:
    shape = product_of(machine, program, instruction, group)
    sums = shape.positions * group.outputs
    first = bool(instruction.flags & INIT) and (not indices or indices[0] == 0)
    counts[Event.ACCUMULATION] += sums * shape.blocks
    counts[Event.MULTIPLY] += sums * shape.blocks * group.multipliers
    source = program.descriptors[instruction.b]
    # a line buffer keeps what windows share: no element is read twice
    read = min(shape.positions * shape.rows * DTYPE_BYTES[source.dtype], unwindowed_bytes_of(source))
    counts[Event.LOCAL_READ] += read + (0 if first else 4 * sums)
    counts[Event.LOCAL_WRITE] += 4 * sums


def _move(
    counts: Counter[Event], machine: MachineDescription, core: int, to: Descriptor, source: Descriptor
) -> None:
    size = bytes_of(to)
    for space, table in ((source.space, _READS), (to.space, _WRITES)):
        if space is Space.DRAM:
            counts[Event.DRAM_BIT] += 8 * size
        else:
            counts[table[space]] += size
    if Space.LB in (source.space, to.space):
        counts[Event.BYTE_HOP] += size * machine.hops(core)


def _dense(counts: Counter[Event], instruction: Instruction, tables: Sequence[Descriptor]) -> None:
    """VMM and VDW; weights are read once an instruction and stay in the unit."""
    to, source, weights = (tables[i] for i in (instruction.a, instruction.b, instruction.c))
    macs = hp_macs(instruction, tables)
    wide = "i16" in (source.dtype, weights.dtype)
    counts[Event.HP_MAC16 if wide else Event.HP_MAC8] += macs
    size = bytes_of(to)
    counts[Event.LOCAL_READ] += (
        bytes_of(source) + bytes_of(weights) + (0 if instruction.flags & INIT else size)
    )
    counts[Event.LOCAL_WRITE] += size


def hp_macs(instruction: Instruction, tables: Sequence[Descriptor]) -> int:
    """MACs of a VMM or VDW; 0 for others."""
    if instruction.mnemonic not in ("VMM", "VDW"):
        return 0
    return positions_of(tables[instruction.b]) * elements_of(tables[instruction.c])


def _elementwise(counts: Counter[Event], instruction: Instruction, tables: Sequence[Descriptor]) -> None:
    op, unit = instruction.mnemonic, instruction.unit
    to = tables[instruction.a]
    sources = [tables[i] for i in _sources(instruction)]
    elements = max(elements_of(d) for d in (to, *sources))
    work: Mapping[Event, int]
    match op:
        case "ACC":
            work = {Event.ACCUMULATION: elements}
            sources.append(to)
        case "VRQ":
            work = {Event.REQUANTIZE: elements}
        case "VADDQ":
            work = {Event.REQUANTIZE: 2 * elements}
        case "VLUT":
            work = {Event.LOOKUP: elements}
        case "VOP" if unit == _VOP_MULTIPLY:
            work = {Event.MULTIPLY: elements}
        case "VRED" if unit == _VRED_SQUARES:
            work = {Event.MULTIPLY: elements, Event.SIMPLE: elements}
        case "FILL" | "VOP" | "VRED" | "VPOOL" | "VTR" | "VCVT":
            work = {Event.SIMPLE: elements}
        case _:
            raise ProgramError(f"there is no instruction '{op}'", hint="see docs/cim/execution.md")
    counts.update(work)
    counts[Event.LOCAL_READ] += sum(map(bytes_of, sources))
    counts[Event.LOCAL_WRITE] += bytes_of(to)


def _sources(instruction: Instruction) -> tuple[int, ...]:
    if instruction.mnemonic == "FILL":
        return ()
    if instruction.mnemonic in ("VOP", "VADDQ"):
        return instruction.b, instruction.c
    return (instruction.b,)
