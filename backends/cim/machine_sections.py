"""The sections of a machine description: one frozen record each, with the limits of every value beside it.

A key carries its unit (`_fj`, `_ns`, `_kib` ...); counts of things have none.  Energies are those of one event, and
`activity.py` says what the events are.  [cim-machine 2]
"""

from dataclasses import dataclass, field
from typing import Any

UNITS = {
    "_fj_per_byte": "fJ/byte",
    "_fj_per_bit": "fJ/bit",
    "_pj_per_bit": "pJ/bit",
    "_gbyte_per_s": "GB/s",
    "_gbit_per_s": "Gb/s",
    "_bytes_per_cycle": "bytes/cycle",
    "_macs_per_cycle": "MACs/cycle",
    "_cycles": "cycles",
    "_bytes": "bytes",
    "_kib": "KiB",
    "_mhz": "MHz",
    "_bits": "bits",
    "_fj": "fJ",
    "_pj": "pJ",
    "_ns": "ns",
    "_nm": "nm",
    "_mw": "mW",
    "_v": "V",
}
KINDS = ("analog_adc", "analog_1b", "digital_tree")
TRANSFERS = ("clip", "scale")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a value may be.

    Attributes:
        low, high: of a number, both allowed.
        whole: whether it counts things.
        words: a word out of these; empty: any line of text.
        text: whether it is a word or text.
        flag: whether it is true or false.
    """

    low: float = 0.0
    high: float = 1e9
    whole: bool = False
    words: tuple[str, ...] = ()
    text: bool = False
    flag: bool = False


def _limited(limits: Limits) -> Any:
    return field(metadata={"limits": limits})


def number(low: float = 0.0, high: float = 1e9) -> Any:
    """A field that holds a finite number."""
    return _limited(Limits(low, high))


def count(low: int = 1, high: int = 1 << 16) -> Any:
    """A field that holds a whole number."""
    return _limited(Limits(low, high, whole=True))


def word(*words: str) -> Any:
    """A field that holds one of some words, or any line of text."""
    return _limited(Limits(words=words, text=True))


def flag() -> Any:
    """A field that is true or false."""
    return _limited(Limits(flag=True))


@dataclass(frozen=True, slots=True)
class System:
    """Chips and the links between them."""

    chips: int = count(1, 1024)
    link_gbit_per_s: float = number(1e-3)
    link_pj_per_bit: float = number()


@dataclass(frozen=True, slots=True)
class Chip:
    """A mesh of cores_x by cores_y cores; core c stands at (c % cores_x, c // cores_x)."""

    cores_x: int = count(1, 256)
    cores_y: int = count(1, 256)
    clock_mhz: float = number(1e-3, 1e5)
    node_nm: float = number(0.5, 1e4)
    vdd_v: float = number(0.05, 20)


@dataclass(frozen=True, slots=True)
class Core:
    """Macros behind one sequencer; `instruction_pj` is spent on fetching and issuing one word."""

    macros: int = count(1, 1 << 14)
    instruction_pj: float = number()


@dataclass(frozen=True, slots=True)
class Macro:
    """Geometry of one macro, and how its cells are written.

    Attributes:
        kind: analog_adc, analog_1b (a comparator a column) or digital_tree (exact adders).
        rows, columns: of cells.
        bits_per_cell: weight bits that one cell holds.
        rows_active: rows that are read at a time, at most.
        input_bits_per_cycle: input planes that a step applies at once.
        complement: a column may be stored inverted and corrected digitally, which halves the range it needs.
        write_row_cycles: time to write one row; the macros of a group are written side by side.
        write_fj_per_bit: energy to write one bit.
        page_switch_cycles: time to change the active row page.
    """

    kind: str = word(*KINDS)
    rows: int = count()
    columns: int = count()
    bits_per_cell: int = count(1, 8)
    rows_active: int = count()
    input_bits_per_cycle: int = count(1, 8)
    complement: bool = flag()
    write_row_cycles: int = count(1, 1 << 30)
    write_fj_per_bit: float = number()
    page_switch_cycles: int = count(0, 1 << 20)


@dataclass(frozen=True, slots=True)
class Array:
    """One step of a macro: one input plane on the active rows, all columns.

    Attributes:
        step_ns: wordline and bitline settling (analog), or the adder tree (digital).
        sample_and_hold: whether the next step starts while this one is converted.
        cell_fj: a cell that holds a one on a driven row (a hit), with its share of the bitline or of the adders.
        wordline_fj: a driven row, for each column that it crosses.
        driver_fj: a driven row of one macro.
        column_fj: a column read, whatever the data.
    """

    step_ns: float = number()
    sample_and_hold: bool = flag()
    cell_fj: float = number()
    wordline_fj: float = number()
    driver_fj: float = number()
    column_fj: float = number()


@dataclass(frozen=True, slots=True)
class Adc:
    """The converters; `share` columns use one, one after the other.  A digital tree has no such section.

    `transfer` says what becomes of counts above 2^bits - 1: `clip`, or `scale` (docs/cim/execution.md).
    """

    bits: int = count(1, 16)
    share: int = count()
    conversion_ns: float = number()
    conversion_fj: float = number()
    transfer: str = word(*TRANSFERS)


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The digital part of a read-out.

    Attributes:
        latency_cycles: from the last conversion to the sum.
        shift_add_fj: taking one conversion into the sum of its output.
        popcount_fj: counting the driven rows, for each row of a block that holds inverted columns, a step.
        complement_fj: the correction of one output with inverted columns, a position and block.
        add_fj: adding one output of a block to its 32-bit sum.
    """

    latency_cycles: int = count(0, 1 << 16)
    shift_add_fj: float = number()
    popcount_fj: float = number()
    complement_fj: float = number()
    add_fj: float = number()


@dataclass(frozen=True, slots=True)
class HpUnit:
    """The 8-bit unit for side paths, depthwise convolutions and dynamic products; 16 bits at half the rate."""

    int8_macs_per_cycle: int = count(1, 1 << 20)
    int8_mac_fj: float = number()
    int16_mac_fj: float = number()


@dataclass(frozen=True, slots=True)
class Vector:
    """The elementwise unit of a core: energy of one element, by kind of work."""

    lanes: int = count(1, 1 << 16)
    simple_fj: float = number()
    multiply_fj: float = number()
    requantize_fj: float = number()
    lookup_fj: float = number()


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffer of each core (local) and that of the chip (global)."""

    local_kib: int = count(1, 1 << 20)
    local_bytes_per_cycle: int = count(1, 1 << 16)
    local_read_fj_per_byte: float = number()
    local_write_fj_per_byte: float = number()
    global_kib: int = count(1, 1 << 24)
    global_bytes_per_cycle: int = count(1, 1 << 16)
    global_read_fj_per_byte: float = number()
    global_write_fj_per_byte: float = number()


@dataclass(frozen=True, slots=True)
class Noc:
    """The mesh; the global buffer and the memory controller hang at core (0, 0)."""

    flit_bytes: int = count(1, 1 << 12)
    hop_cycles: int = count(0, 1 << 12)
    hop_fj_per_byte: float = number()


@dataclass(frozen=True, slots=True)
class Dram:
    """Memory off the chip."""

    type: str = word()
    gbyte_per_s: float = number(1e-3)
    latency_ns: float = number()
    energy_pj_per_bit: float = number()


@dataclass(frozen=True, slots=True)
class Energy:
    """What holds for all energies of the machine, and the conventions of its figures.

    Attributes:
        leakage_mw: of the whole chip.
        ops_per_mac: 2 unless the source counts otherwise.
        input_density, weight_density: ones in input and weight planes at which figures without data are quoted.
        scope: what the array figures include.
        calibration: which of them were fitted, and to what.
    """

    leakage_mw: float = number()
    ops_per_mac: int = count(1, 2)
    input_density: float = number(0, 1)
    weight_density: float = number(0, 1)
    scope: str = word()
    calibration: str = word()


SECTIONS: dict[str, type] = {
    "system": System,
    "chip": Chip,
    "core": Core,
    "macro": Macro,
    "array": Array,
    "adc": Adc,
    "accumulator": Accumulator,
    "hp_unit": HpUnit,
    "vector": Vector,
    "buffers": Buffers,
    "noc": Noc,
    "dram": Dram,
    "energy": Energy,
}


def unit_of(key: str) -> str:
    """The unit that a key names: "adc.conversion_fj" -> "fJ"; "" for counts, words and flags."""
    last = key.rpartition(".")[2]
    if last == "bits":
        return "bits"
    return next((unit for suffix, unit in UNITS.items() if f"_{last}".endswith(suffix)), "")


def stem_of(key: str) -> str:
    """The key without its unit."""
    return next((key[: -len(suffix)] for suffix in UNITS if key.endswith(suffix)), key)
