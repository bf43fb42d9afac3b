"""Cycles of one instruction on a machine. [cim-machine 2, cycle model].

    t_step = step + n * t_adc           analog, n = columns of a macro / its converters, rounded up
    t_step = max(step, n * t_adc)       with sample-and-hold: the next plane settles while this one is converted
    t_step = step                       digital tree
    t_MVM  = positions * rounds * (steps * t_step + page switch) + shift-add

Times in ns are rounded up to whole cycles a step.  A move takes its bytes over the slowest port on its way, the hops,
and the latency of DRAM.  Vector work is bound by lanes or by the port of the local buffer.
"""

import math
from collections.abc import Sequence

from lpcompile.backends.cim.activity import MVMS, SEQUENCING, fixed_counts, hp_macs
from lpcompile.backends.cim.events import Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.operands import Product, bytes_of, group_index, product_of
from lpcompile.backends.cim.program import Group, Instruction, Program, Space

TIMING_KEYS = (
    "chip.cores_x", "chip.clock_mhz",
    "macro.columns", "macro.bits_per_cell", "macro.input_bits_per_cycle", "macro.write_row_cycles",
    "macro.page_switch_cycles",
    "array.step_ns", "array.sample_and_hold", "adc.share", "adc.conversion_ns", "accumulator.latency_cycles",
    "hp_unit.int8_macs_per_cycle", "vector.lanes",
    "buffers.local_bytes_per_cycle", "buffers.global_bytes_per_cycle", "noc.flit_bytes", "noc.hop_cycles",
    "dram.gbyte_per_s", "dram.latency_ns",
)  # fmt: skip  # of a machine, what `cycles` reads
_ELEMENTWISE = (Event.SIMPLE, Event.REQUANTIZE, Event.LOOKUP, Event.ACCUMULATION, Event.MULTIPLY)


def cycles(
    machine: MachineDescription,
    program: Program,
    instruction: Instruction,
    core: int,
    indices: Sequence[int] = (),
    steps: int | None = None,
) -> int:
    """Cycles that an instruction holds its queue.

    Args:
        machine: it runs on.
        program: whose tables its operands point into.
        instruction: the word.
        core: that executes it.
        indices: of the enclosing REPEATs, innermost first.
        steps: array steps that SKIPZ leaves, summed over positions and blocks; None: the worst case, all of them.

    Raises:
        ProgramError: there is no such instruction.
    """
    op, tables = instruction.mnemonic, program.descriptors
    if op == "WPAGE":
        return machine.macro.page_switch_cycles
    if op in SEQUENCING:
        return 0
    if op in MVMS:
        group = program.groups[group_index(program, instruction, indices)]
        return _mvm(machine, product_of(machine, program, instruction, group), steps)
    if op == "WPROG":
        group = program.groups[group_index(program, instruction, indices)]
        return _program_weights(machine, program, group, core)
    if op in ("LD", "ST", "MOV"):
        to, source = tables[instruction.a], tables[instruction.b]
        return _move(machine, {to.space, source.space}, bytes_of(to), core)
    if op == "SEND":
        flits = -(-bytes_of(tables[instruction.a]) // machine.noc.flit_bytes)
        return flits + machine.hops(core, instruction.b) * machine.noc.hop_cycles
    counts = fixed_counts(machine, program, instruction, core, indices)
    port = -(-(counts[Event.LOCAL_READ] + counts[Event.LOCAL_WRITE]) // machine.buffers.local_bytes_per_cycle)
    if op == "RECV":
        return port
    if op in ("VMM", "VDW"):
        rate = machine.hp_unit.int8_macs_per_cycle
        return max(-(-hp_macs(instruction, tables) * (2 if counts[Event.HP_MAC16] else 1) // rate), port)
    lanes = -(-max(counts[event] for event in _ELEMENTWISE) // machine.vector.lanes)
    return max(lanes, port)


def cycles_of_ns(machine: MachineDescription, time_ns: float) -> int:
    """Whole cycles that cover a time."""
    return math.ceil(round(time_ns * machine.chip.clock_mhz * 1e-3, 9))


def step_cycles(machine: MachineDescription, macro_columns: int) -> int:
    """Cycles from one array step to the next, with so many columns of a macro in use."""
    adc, settle = machine.adc, machine.array.step_ns
    if adc is None:
        return cycles_of_ns(machine, settle)
    converters = -(-machine.macro.columns // adc.share)
    convert = -(-macro_columns // converters) * adc.conversion_ns
    return cycles_of_ns(machine, max(settle, convert) if machine.array.sample_and_hold else settle + convert)


def _mvm(machine: MachineDescription, shape: Product, steps: int | None) -> int:
    macro, step = machine.macro, step_cycles(machine, shape.macro_columns)
    switches = shape.positions * shape.rounds * macro.page_switch_cycles if shape.rounds > 1 else 0
    taken = shape.positions * shape.rounds * shape.steps
    if steps is not None:  # blocks side by side wait for the longest; taken as even
        taken = -(-steps * shape.rounds // shape.blocks)
    fill = cycles_of_ns(machine, machine.array.step_ns) if machine.array.sample_and_hold else 0
    return taken * step + switches + fill + machine.accumulator.latency_cycles


def _program_weights(machine: MachineDescription, program: Program, group: Group, core: int) -> int:
    planes = len(program.plane_sets[group.planes].coefficients)
    size = -(-planes * group.outputs * (group.rows + group.blocks) // 8)
    rows = min(-(-group.blocks // group.down) * group.block_rows, group.rows)
    return max(rows * machine.macro.write_row_cycles, _move(machine, {Space.DRAM, Space.LB}, size, core))


def _move(machine: MachineDescription, spaces: set[Space], size: int, core: int) -> int:
    rates: list[float] = []
    wait = 0
    if Space.DRAM in spaces:
        rates.append(machine.dram.gbyte_per_s * 1e3 / machine.chip.clock_mhz)
        wait += cycles_of_ns(machine, machine.dram.latency_ns)
    if Space.GB in spaces:
        rates.append(machine.buffers.global_bytes_per_cycle)
    if Space.LB in spaces:
        rates += [machine.buffers.local_bytes_per_cycle, machine.noc.flit_bytes]
        wait += machine.hops(core) * machine.noc.hop_cycles
    return math.ceil(size / min(rates)) + wait
