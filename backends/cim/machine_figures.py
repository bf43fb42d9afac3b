"""What follows from a machine's numbers: peak throughput, MAC-only efficiency, capacity. [cim-machine 3].

    E_step = d*R*(E_driver + C*E_wl) + d*w*R*C*bits_per_cell*E_cell + C*(E_column + E_conversion + E_shift-add)
    E_MAC  = steps * E_step / (R * C / cells)        cells = those of one weight, steps = array steps of one input

R active rows and C columns, all in use; d and w are the machine's stated densities of ones; no column is corrected.
"""

from dataclasses import dataclass

from lpcompile.backends.cim.events import PRICES, Event
from lpcompile.backends.cim.latency import step_cycles
from lpcompile.backends.cim.machine import MachineDescription

WIDTHS = (4, 8)


@dataclass(frozen=True, slots=True)
class WidthFigures:
    """Figures at one width of weights and inputs, in bits.

    Attributes:
        bits: of a weight and of an input.
        peak_tops: operations a second in 1e12, all macros of a chip busy.
        mac_fj: energy of a MAC inside a macro.
        tops_per_w_mac_only: operations per joule in 1e12, by `mac_fj` alone.
        weights: that all macros of a chip hold.
    """

    bits: int
    peak_tops: float
    mac_fj: float
    tops_per_w_mac_only: float
    weights: int


def step_parts_fj(machine: MachineDescription, rows: int | None = None) -> dict[Event, float]:
    """Energy of one array step of a full macro in fJ, by event; `rows` instead of the machine's active rows."""
    macro, energy = machine.macro, machine.energy
    columns = macro.columns
    driven = energy.input_density * (macro.rows_active if rows is None else rows)
    counts = {
        Event.DRIVEN_ROW: driven,
        Event.CROSSED_COLUMN: driven * columns,
        Event.HIT: driven * energy.weight_density * columns * macro.bits_per_cell,
        Event.COLUMN_READ: columns,
        Event.CONVERSION: columns if machine.adc is not None else 0,
        Event.SHIFT_ADD: columns,
    }
    return {event: n * PRICES[event].energy_pj(machine) * 1e3 for event, n in counts.items() if n}


def mac_fj(
    machine: MachineDescription, weight_bits: int, input_bits: int, rows: int, *, corrected: bool = False
) -> float:
    """Energy of a MAC inside a macro of which so many rows are read at a time.

    With `corrected` every output holds an inverted column: its rows are counted and it is corrected.
    """
    macro = machine.macro
    cells = -(-weight_bits // macro.bits_per_cell)
    steps = -(-input_bits // macro.input_bits_per_cycle)
    outputs = macro.columns / cells
    energy = steps * sum(step_parts_fj(machine, rows).values())
    if corrected:
        energy += steps * rows * machine.accumulator.popcount_fj + outputs * machine.accumulator.complement_fj
    return energy / (rows * outputs)


def figures(machine: MachineDescription, weight_bits: int, input_bits: int) -> WidthFigures:
    """Figures of a machine for weights and inputs of so many planes each."""
    macro = machine.macro
    cells = -(-weight_bits // macro.bits_per_cell)
    steps = -(-input_bits // macro.input_bits_per_cycle)
    fj = mac_fj(machine, weight_bits, input_bits, macro.rows_active)
    macros = machine.core_count * machine.core.macros
    outputs = macro.columns // cells
    step_ns = step_cycles(machine, outputs * cells) * 1e3 / machine.chip.clock_mhz
    macs_per_ns = macros * macro.rows_active * outputs / (steps * step_ns) if step_ns else 0.0
    ops = machine.energy.ops_per_mac
    return WidthFigures(
        bits=weight_bits,
        peak_tops=ops * macs_per_ns * 1e-3,
        mac_fj=fj,
        tops_per_w_mac_only=ops * 1e3 / fj if fj else 0.0,
        weights=macros * machine.row_pages * macro.rows_active * outputs,
    )
