"""How long an instruction takes: a question to the machine description, asked with what the simulator knows."""

from dataclasses import dataclass
from typing import Protocol

from lpcompile.backends.cim.program import Instruction, Program


@dataclass(frozen=True, slots=True)
class Work:
    """What one execution of an instruction has to do.

    Attributes:
        elements: of the destination (of the source for SEND); 0 for SIG, WAIT, BAR, WPAGE.
        bytes: of those elements.
        group: entry of the group table, REPEAT indices included; -1 where there is none.
        positions: of an MVM, VMM, VDW or VPOOL.
        planes: input planes of an MVM.
        plane_steps: (position, block, input plane) that the arrays read; less than the product of the three only
            under SKIPZ, which leaves out planes without a one in the rows of the block.
        macs: multiply-accumulates of MVM, VMM and VDW; an MVMP does a share of one, and counts none.
        changed_conversions: of an MVM, that read something else than the count of ones.
        indices: of the enclosing REPEATs, innermost first.
        varies: another execution of the same operation may have other work, as SKIPZ makes it.
    """

    elements: int = 0
    bytes: int = 0
    group: int = -1
    positions: int = 0
    planes: int = 0
    plane_steps: int = 0
    macs: int = 0
    changed_conversions: int = 0
    indices: tuple[int, ...] = ()
    varies: bool = False


class Timing(Protocol):
    """Durations of a machine."""

    def cycles(self, core: int, instruction: Instruction, program: Program, work: Work) -> int:
        """Cycles from start to end, at least 0."""
        ...


class UnitTiming:
    """Every instruction takes one cycle."""

    def cycles(self, core: int, instruction: Instruction, program: Program, work: Work) -> int:
        """One."""
        return 1
