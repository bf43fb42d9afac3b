"""What a simulated machine offers, and how far a simulation may go."""

from dataclasses import dataclass

TRANSFERS = ("clip", "scale")


@dataclass(frozen=True, slots=True)
class Capacities:
    """Sizes of the machine that a program runs on.

    Attributes:
        cores: of the chip.
        gb_bytes, lb_bytes: of the global buffer, of the local buffer of each core.
        macros: of each core.
        pages: row pages of a macro.
        adc_bits: of the converter; None where columns are summed digitally, which is exact.
        transfer: what the converter does beyond its range, `clip` or `scale`.
        dram_bytes: the largest DRAM image that is accepted.
    """

    cores: int
    gb_bytes: int
    lb_bytes: int
    macros: int
    pages: int = 1
    adc_bits: int | None = None
    transfer: str = "clip"
    dram_bytes: int = 1 << 32


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a simulation stops instead of running on; programs are not trusted.

    Attributes:
        instructions: of one boot or one device stage, all cores together, REPEATs unrolled.
        cycles: of one boot or one device stage.
        elements: of one operand, windows expanded.
        macs: multiply-accumulates of one instruction.
        message_bytes: sent and not yet received.
    """

    instructions: int = 1 << 20
    cycles: int = 1 << 40
    elements: int = 1 << 28
    macs: int = 1 << 36
    message_bytes: int = 1 << 28
