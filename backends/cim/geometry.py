"""The few numbers of a machine that lowering cuts layers by."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.planes import StoredPlanes, cells_of
from lpcompile.backends.cim.program import PlaneSet


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a machine.

    Attributes:
        cores: number of cores.
        macros: macros of a core.
        rows, columns: cells of a macro.
        bits_per_cell: planes that share a cell.
        levels: largest product of a cell and an input in one cycle.
        rows_active: rows that are read at a time.
        row_pages: blocks that one macro holds: a page has `rows_active` rows, however few of them a block uses.
        adc_max: largest count that a converter tells; None where a digital tree counts exactly.
        complement: whether columns may be stored inverted.
        scales: whether the converter spreads its steps over the rows of a block instead of saturating.
        lb_bytes, gb_bytes: local buffer of a core, global buffer of the chip.
        hops: distance of every core from the global buffer, in hops.
    """

    cores: int
    macros: int
    rows: int
    columns: int
    bits_per_cell: int
    levels: int
    rows_active: int
    row_pages: int
    adc_max: int | None
    complement: bool
    scales: bool
    lb_bytes: int
    gb_bytes: int
    hops: tuple[int, ...]

    @classmethod
    def of(cls, machine: MachineDescription) -> "Geometry":
        """The sizes of a machine description."""
        macro = machine.macro
        return cls(
            machine.core_count,
            machine.macros_per_core,
            macro.rows,
            macro.columns,
            macro.bits_per_cell,
            ((1 << macro.bits_per_cell) - 1) * ((1 << macro.input_bits_per_cycle) - 1),
            macro.rows_active,
            machine.row_pages,
            None if machine.adc_bits is None else (1 << machine.adc_bits) - 1,
            macro.complement,
            machine.transfer == "scale",
            machine.local_bytes,
            machine.global_bytes,
            tuple(machine.hops(core) for core in range(machine.core_count)),
        )

    @property
    def block_rows(self) -> int:
        """Rows of a block: those that are read at a time; with several bits a cell or input no more than stay lossless.

        With one bit each they may be more: the tiles that clip are named, and simulated as they are.
        """
        if self.adc_max is None or self.levels == 1:
            return self.rows_active
        twice = (
            self.complement and not self.scales
        )  # spread steps tell no count of more rows than there are steps
        most = (2 * self.adc_max + 1 if twice else self.adc_max) // self.levels
        return max(1, min(self.rows_active, most))

    @property
    def most_ones(self) -> int | None:
        """Ones that a column may hold before it is stored inverted; None where none is."""
        return None if self.adc_max is None or not self.complement else self.adc_max // self.levels

    def lossless(self, stored: StoredPlanes) -> bool:
        """Whether every column of every block is read without loss."""
        if self.adc_max is None:
            return True
        if self.scales:  # counts are rounded wherever the steps are fewer than the rows; 0 stays 0
            rows = stored.bits.shape[1] - stored.block_rows * np.arange(len(stored.ones))
            if stored.ones[np.minimum(rows, stored.block_rows) > self.adc_max].any():
                return False
        return stored.lossless(self.adc_max, self.levels)

    def outputs_per_macro(self, planes: PlaneSet) -> int:
        """Outputs whose planes stand side by side in a macro."""
        return self.columns // cells_of(planes, self.bits_per_cell)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Macros that K rows by n outputs take.

    Attributes:
        across: macros side by side, which split the outputs.
        down: macros that hold different blocks and are read together.
        pages: blocks one after the other in a macro.
    """

    across: int
    down: int
    pages: int

    @property
    def macros(self) -> int:
        """Their number."""
        return self.across * self.down

    @classmethod
    def of(cls, g: Geometry, rows: int, outputs: int, planes: PlaneSet) -> "Footprint":
        """The densest packing."""
        blocks = ceil(rows / g.block_rows)
        down = ceil(blocks / g.row_pages)
        return cls(ceil(outputs / g.outputs_per_macro(planes)), down, ceil(blocks / down))
