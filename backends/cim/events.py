"""The physical events that cost energy, and which number of a machine prices each. [cim-machine 3]."""

from dataclasses import dataclass
from enum import StrEnum

from lpcompile.backends.cim.machine import MachineDescription

LEAKAGE = "leakage"


class Event(StrEnum):
    """What is counted; the unit of a count is one such thing."""

    DRIVEN_ROW = "driven_row"  # a row of one macro, one input plane
    CROSSED_COLUMN = "crossed_column"  # a driven row and a column that it crosses
    HIT = "hit"  # a driven row meets a stored one
    COLUMN_READ = "column_read"
    CONVERSION = "conversion"
    SHIFT_ADD = "shift_add"
    COUNTED_ROW = "counted_row"  # of a block with inverted columns, a step
    CORRECTION = "correction"  # an output with inverted columns, a position and block
    ACCUMULATION = "accumulation"  # an output of a block into its 32-bit sum
    LOCAL_READ = "local_read"  # bytes
    LOCAL_WRITE = "local_write"
    GLOBAL_READ = "global_read"
    GLOBAL_WRITE = "global_write"
    DRAM_BIT = "dram_bit"
    BYTE_HOP = "byte_hop"
    SIMPLE = "simple"  # elements
    MULTIPLY = "multiply"
    REQUANTIZE = "requantize"
    LOOKUP = "lookup"
    HP_MAC8 = "hp_mac8"
    HP_MAC16 = "hp_mac16"
    CELL_WRITE = "cell_write"  # bits
    INSTRUCTION = "instruction"


@dataclass(frozen=True, slots=True)
class Price:
    """How an event is priced.

    Attributes:
        component: of the report.
        key: of the machine: the energy of one event.
        in_macro: whether it counts as "MAC only": cells, wordlines, read-out and shift-add, nothing beyond.
    """

    component: str
    key: str
    in_macro: bool = False

    @property
    def pj_per_unit(self) -> float:
        """Picojoules of one unit of the key."""
        return 1.0 if "_pj" in self.key else 1e-3

    def energy_pj(self, machine: MachineDescription) -> float:
        """Energy of one event."""
        return float(machine.value(self.key)) * self.pj_per_unit


PRICES: dict[Event, Price] = {
    Event.DRIVEN_ROW: Price("wordlines", "array.driver_fj", in_macro=True),
    Event.CROSSED_COLUMN: Price("wordlines", "array.wordline_fj", in_macro=True),
    Event.HIT: Price("cells", "array.cell_fj", in_macro=True),
    Event.COLUMN_READ: Price("columns", "array.column_fj", in_macro=True),
    Event.CONVERSION: Price("converters", "adc.conversion_fj", in_macro=True),
    Event.SHIFT_ADD: Price("shift-add", "accumulator.shift_add_fj", in_macro=True),
    Event.COUNTED_ROW: Price("complement", "accumulator.popcount_fj", in_macro=True),
    Event.CORRECTION: Price("complement", "accumulator.complement_fj", in_macro=True),
    Event.ACCUMULATION: Price("accumulation", "accumulator.add_fj"),
    Event.LOCAL_READ: Price("local buffers", "buffers.local_read_fj_per_byte"),
    Event.LOCAL_WRITE: Price("local buffers", "buffers.local_write_fj_per_byte"),
    Event.GLOBAL_READ: Price("global buffer", "buffers.global_read_fj_per_byte"),
    Event.GLOBAL_WRITE: Price("global buffer", "buffers.global_write_fj_per_byte"),
    Event.DRAM_BIT: Price("dram", "dram.energy_pj_per_bit"),
    Event.BYTE_HOP: Price("noc", "noc.hop_fj_per_byte"),
    Event.SIMPLE: Price("vector", "vector.simple_fj"),
    Event.MULTIPLY: Price("vector", "vector.multiply_fj"),
    Event.REQUANTIZE: Price("vector", "vector.requantize_fj"),
    Event.LOOKUP: Price("vector", "vector.lookup_fj"),
    Event.HP_MAC8: Price("hp unit", "hp_unit.int8_mac_fj"),
    Event.HP_MAC16: Price("hp unit", "hp_unit.int16_mac_fj"),
    Event.CELL_WRITE: Price("cell writes", "macro.write_fj_per_bit"),
    Event.INSTRUCTION: Price("instructions", "core.instruction_pj"),
}
COMPONENTS = (*dict.fromkeys(price.component for price in PRICES.values()), LEAKAGE)
