"""What a simulated machine offers, and how far a simulation may go."""

from dataclasses import dataclass
from typing import Protocol

TRANSFERS = ("clip", "scale")


class Sizes(Protocol):
    """What a machine description says about its sizes."""

    @property
    def core_count(self) -> int:
        """Cores of the chip."""
        ...

    @property
    def macros_per_core(self) -> int:
        """Macros of a core."""
        ...

    @property
    def row_pages(self) -> int:
        """Row pages of a macro."""
        ...

    @property
    def adc_bits(self) -> int | None:
        """Bits of a converter; None for a digital sum."""
        ...

    @property
    def transfer(self) -> str | None:
        """What a converter does beyond its range."""
        ...

    @property
    def local_bytes(self) -> int:
        """Bytes of a local buffer."""
        ...

    @property
    def global_bytes(self) -> int:
        """Bytes of the global buffer."""
        ...


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
    dram_bytes: int = 1 << 30

    @classmethod
    def of(cls, machine: Sizes) -> "Capacities":
        """Those of a machine description."""
        return cls(
            cores=machine.core_count,
            gb_bytes=machine.global_bytes,
            lb_bytes=machine.local_bytes,
            macros=machine.macros_per_core,
            pages=machine.row_pages,
            adc_bits=machine.adc_bits,
            transfer=machine.transfer or "clip",
        )


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

    instructions: int = 1 << 21
    cycles: int = 1 << 40
    elements: int = 1 << 28
    macs: int = 1 << 36
    message_bytes: int = 1 << 28
