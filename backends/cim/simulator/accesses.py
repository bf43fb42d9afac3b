"""Which memory each instruction reads and writes."""

from dataclasses import dataclass

from lpcompile.backends.cim.program import Space
from lpcompile.backends.cim.simulator.operands import Operand, Operands
from lpcompile.backends.cim.simulator.overlap import Footprint, footprint
from lpcompile.backends.cim.simulator.streams import Operation, Schedule

# operand -> whether it is written; an accumulator that is read counts as written alone
OPERANDS: dict[str, tuple[tuple[str, bool], ...]] = {
    **dict.fromkeys(
        ("LD", "ST", "MOV", "VTR", "ACC", "VRQ", "VLUT", "VRED", "VPOOL", "VCVT"), (("a", True), ("b", False))
    ),
    **dict.fromkeys(("VOP", "VADDQ", "VDW", "VMM"), (("a", True), ("b", False), ("c", False))),
    **dict.fromkeys(("MVM", "MVMP"), (("c", True), ("b", False))),
    "FILL": (("a", True),),
    "RECV": (("a", True),),
    "SEND": (("a", False),),
}


@dataclass(frozen=True, slots=True)
class Access:
    """One read or write.

    Attributes:
        lane, position: of the operation in the schedule.
        memory: -1 for DRAM, -2 for the global buffer, else the core of a local buffer.
        footprint: the bytes.
        writes: whether they are written.
    """

    lane: int
    position: int
    memory: int
    footprint: Footprint
    writes: bool


def operands_of(operation: Operation, operands: Operands) -> list[tuple[Operand, bool]]:
    """The operands of an operation, and whether each is written.

    Raises:
        ProgramError: a descriptor is wrong.
    """
    word = operation.instruction
    return [
        (operands.resolve(operation, getattr(word, name), writes=writes), writes)
        for name, writes in OPERANDS.get(word.mnemonic, ())
    ]


def memory_of(operand: Operand, core: int) -> int:
    """Number of the memory that an operand lies in."""
    space = operand.descriptor.space
    return -1 if space == Space.DRAM else -2 if space == Space.GB else core


def accesses(schedule: Schedule, operands: Operands) -> list[Access]:
    """All accesses of a schedule, lane by lane.

    Raises:
        ProgramError: a descriptor is wrong.
    """
    found: list[Access] = []
    seen: dict[int, tuple[Operand, Footprint]] = {}
    for lane, operations in enumerate(schedule.lanes):
        for position, operation in enumerate(operations):
            for operand, writes in operands_of(operation, operands):
                if id(operand) not in seen:
                    seen[id(operand)] = operand, footprint(operand)  # kept, so that no other gets its id
                bytes_ = seen[id(operand)][1]
                found.append(Access(lane, position, memory_of(operand, operation.core), bytes_, writes))
    return found
