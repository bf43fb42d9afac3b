"""Instruction streams, unrolled: which operations each queue of each core has to do, in its order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from lpcompile.backends.cim.isa import isa
from lpcompile.backends.cim.program import MAX_LEVELS, Instruction, Program, Queue
from lpcompile.backends.cim.simulator.capacities import Limits
from lpcompile.errors import ProgramError

_OF_UNIT = ("SIG", "WAIT")
_SILENT = ("NOP", "MARK")
_BY_NUMBER = tuple(Queue)


@cache
def issue_queues() -> dict[str, Queue]:
    """The queue of every instruction that has one of its own, as `isa.toml` says."""
    by_name = {q.name.lower(): q for q in Queue}
    return {m: by_name[o.queue] for m, o in isa().operations.items() if o.queue in by_name}


@dataclass(slots=True, eq=False)
class Operation:
    """One execution of an instruction.

    Attributes:
        core: that executes it.
        queue: that it is issued into; CIM for BAR, which stands in all four.
        instruction: the word.
        indices: of the enclosing REPEATs, innermost first.
        pc: index of the word in its stream.
        node: name of the ONNX node that it serves, "" where no MARK came before.
        stream: "boot" or "run <stage>".
    """

    core: int
    queue: Queue
    instruction: Instruction
    indices: tuple[int, ...]
    pc: int
    node: str
    stream: str

    def __str__(self) -> str:
        node = f", node '{self.node}'" if self.node else ""
        at = f" at {self.indices}" if self.indices else ""
        return (
            f"core {self.core}, {self.stream}, instruction {self.pc} ({self.instruction.mnemonic}){at}{node}"
        )

    def fault(self, message: str, hint: str | None = None) -> ProgramError:
        """An error that names this operation."""
        return ProgramError(message, where=str(self), hint=hint)


@dataclass
class Schedule:
    """The operations of one boot or one device stage.

    Attributes:
        name: "boot" or "run <stage>".
        lanes: operations by `4 * core + queue`; a BAR is one object in the four lanes of its core.
        count: operations, each BAR counted once.
    """

    name: str
    lanes: list[list[Operation]] = field(default_factory=list)
    count: int = 0


def unroll(program: Program, stage: int | None, limits: Limits) -> Schedule:
    """The operations of a device stage, or of the boot where `stage` is None.

    Raises:
        ProgramError: a stream is malformed, or longer than the limit.
    """
    name = "boot" if stage is None else f"run {stage}"
    schedule = Schedule(name)
    streams: list[tuple[Instruction, ...]] = []
    total = 0
    for core, code in enumerate(program.cores):
        if stage is not None and not 0 <= stage < len(code.run):
            raise ProgramError(f"core {core} has no stream for device stage {stage}")
        stream = code.boot if stage is None else code.run[stage]
        total += dynamic_length(stream, f"core {core}, {name}")
        streams.append(stream)
    if total > limits.instructions:
        raise ProgramError(
            f"{name} executes {total} instructions, more than the limit of {limits.instructions}",
            hint="compile for fewer strips, or raise the limit",
        )
    for core, stream in enumerate(streams):
        lanes: list[list[Operation]] = [[] for _ in Queue]
        for operation in _operations(program, core, stream, name):
            schedule.count += 1
            if operation.instruction.mnemonic == "BAR":
                for lane in lanes:
                    lane.append(operation)
            else:
                lanes[operation.queue].append(operation)
        schedule.lanes.extend(lanes)
    return schedule


def dynamic_length(stream: Sequence[Instruction], where: str) -> int:
    """Words executed, REPEATs multiplied out; checks the nesting on the way.

    Raises:
        ProgramError: no HALT at the end, a body that leaves its REPEAT, too deep a nest.
    """
    if not stream or stream[-1].mnemonic != "HALT":
        raise ProgramError("the stream does not end with HALT", where=where)
    total, factor = 0, 1
    ends: list[tuple[int, int]] = []  # (pc behind the body, count), outermost first
    for pc, word in enumerate(stream):
        while ends and ends[-1][0] == pc:
            factor //= ends.pop()[1]
        total += factor
        if word.mnemonic == "HALT" and pc != len(stream) - 1:
            raise ProgramError("HALT stands before the end", where=f"{where}, instruction {pc}")
        if word.mnemonic == "REPEAT":
            end = pc + 1 + word.b
            inside = ends[-1][0] if ends else len(stream) - 1
            if word.a < 1 or word.b < 1 or end > inside:
                raise ProgramError("REPEAT is empty or leaves its stream", where=f"{where}, instruction {pc}")
            if len(ends) == MAX_LEVELS:
                raise ProgramError(
                    f"REPEATs nest deeper than {MAX_LEVELS}", where=f"{where}, instruction {pc}"
                )
            ends.append((end, word.a))
            factor *= word.a
    return total


def _operations(program: Program, core: int, stream: Sequence[Instruction], name: str) -> Iterator[Operation]:
    queues = issue_queues()
    node = ""
    pc = 0
    loops: list[list[int]] = []  # [first pc of the body, pc behind it, count, index], outermost first
    indices: tuple[int, ...] = ()
    while pc < len(stream):
        word = stream[pc]
        mnemonic = word.mnemonic
        if mnemonic == "REPEAT":
            loops.append([pc + 1, pc + 1 + word.b, word.a, 0])
            indices = (0, *indices)
        elif mnemonic == "MARK":
            if not 0 <= word.a < len(program.nodes):
                raise ProgramError("MARK names no node", where=f"core {core}, {name}, instruction {pc}")
            node = program.nodes[word.a]
        elif mnemonic in queues or mnemonic == "BAR":
            queue = queues.get(mnemonic, Queue.CIM)
            yield Operation(core, queue, word, indices, pc, node, name)
        elif mnemonic in _OF_UNIT:
            if not 0 <= word.unit < len(_BY_NUMBER):
                raise ProgramError(
                    f"{mnemonic} names no queue", where=f"core {core}, {name}, instruction {pc}"
                )
            yield Operation(core, _BY_NUMBER[word.unit], word, indices, pc, node, name)
        elif mnemonic not in _SILENT and mnemonic != "HALT":
            raise ProgramError(
                f"there is no instruction '{mnemonic}'", where=f"core {core}, {name}, instruction {pc}"
            )
        pc += 1
        while loops and pc == loops[-1][1]:
            loop = loops[-1]
            loop[3] += 1
            if loop[3] < loop[2]:
                pc = loop[0]
                indices = (loop[3], *indices[1:])
                break
            loops.pop()
            indices = indices[1:]
