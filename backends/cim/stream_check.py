"""Whether the streams of a program end, refer to what is there, and use up every event they signal."""

from collections import Counter
from collections.abc import Sequence

from lpcompile.backends.cim.isa import fault, operands_of
from lpcompile.backends.cim.program import (
    MAX_LEVELS,
    NO_TABLE,
    Descriptor,
    Group,
    Instruction,
    Program,
    Space,
)
from lpcompile.backends.cim.program_limits import (
    MOST_ADDRESS,
    MOST_ISSUED,
    check_range,
    extent,
    refuse,
)

Events = Counter[tuple[int, int]]  # (core, event) -> signals less what waits take


def check_streams(program: Program) -> None:
    """Check every stream of every core, and that counters are back at 0 when boot and each device stage end.

    Raises:
        ProgramError: no HALT at the end, REPEAT out of bounds or too deep, an operand that leads nowhere, an access
            outside the DRAM image, events that do not add up.
    """
    boots = [core.boot for core in program.cores]
    runs = (
        [[core.run[i] for core in program.cores] for i in range(len(program.cores[0].run))] if boots else []
    )
    for name, streams in (("boot", boots), *((f"run {i}", streams) for i, streams in enumerate(runs))):
        events: Events = Counter()
        for core, stream in enumerate(streams):
            _Walk(program, core, f"core {core} {name}", events).walk(stream)
        for (core, event), left in sorted(events.items()):
            if left:
                rest = f"{left} signals too many" if left > 0 else f"{-left} signals are missing"
                refuse(f"event {event} of core {core}: {rest}", name)


class _Walk:
    """Reads one stream in order, with the REPEATs around the word it is at."""

    def __init__(self, program: Program, core: int, name: str, events: Events) -> None:
        self.program, self.core, self.name, self.events = program, core, name, events
        self.sizes = {
            "descriptor": len(program.descriptors),
            "group": len(program.groups),
            "requant": len(program.requants),
            "lut": len(program.luts),
            "node": len(program.nodes),
            "core": len(program.cores),
        }
        self.seen: set[tuple[Instruction, tuple[int, ...]]] = set()

    def walk(self, stream: Sequence[Instruction]) -> None:
        """Check the stream."""
        if not stream or stream[-1].mnemonic != "HALT":
            refuse("the stream does not end with HALT", self.name)
        ends: list[int] = []  # of the enclosing REPEATs, outermost first
        counts: tuple[int, ...] = ()  # their counts, innermost first, as levels and steps are
        times, issued = 1, 0
        for index, instruction in enumerate(stream):
            while ends and index == ends[-1]:
                ends.pop()
                times //= counts[0]
                counts = counts[1:]
            issued += times
            key = (instruction, counts)
            if key not in self.seen:
                self._check(instruction, counts, f"{self.name}, word {index}")
                self.seen.add(key)
            if instruction.mnemonic == "SIG":
                self.events[instruction.b, instruction.a] += times
            elif instruction.mnemonic == "WAIT":
                self.events[self.core, instruction.a] -= times * instruction.b
            elif instruction.mnemonic == "HALT" and index + 1 != len(stream):
                refuse("HALT before the end of the stream", f"{self.name}, word {index}")
            elif instruction.mnemonic == "REPEAT":
                end = index + 1 + instruction.b
                if end > (ends[-1] if ends else len(stream) - 1):
                    refuse("REPEAT reaches beyond what encloses it", f"{self.name}, word {index}")
                if len(ends) == MAX_LEVELS:
                    refuse(f"REPEAT more than {MAX_LEVELS} deep", f"{self.name}, word {index}")
                ends.append(end)
                counts = (instruction.a, *counts)
                times *= instruction.a
        check_range(issued, 0, MOST_ISSUED, "number of issued words", self.name)

    def _check(self, instruction: Instruction, counts: tuple[int, ...], where: str) -> None:
        wrong = fault(instruction)
        if wrong is not None:
            refuse(wrong, where)
        for operand, value in operands_of(instruction):
            if operand.kind in self.sizes:
                check_range(
                    value, 0, self.sizes[operand.kind] - 1, f"{instruction.mnemonic}: {operand.kind}", where
                )
            if operand.kind == "descriptor":
                self._check_reach(self.program.descriptors[value], value, counts, where)
            elif operand.kind == "group":
                group = self.program.groups[value]
                low, high = _shift(group.step, counts)
                check_range(value + low, 0, self.sizes["group"] - 1, "group of the first step", where)
                check_range(value + high, 0, self.sizes["group"] - 1, "group of the last step", where)
                self._check_page(instruction, group, where)
        if instruction.mnemonic == "VRQ":
            self._check_channels(instruction, where)
        elif instruction.mnemonic == "VADDQ":
            self._check_pair(instruction, where)

    def _check_reach(self, d: Descriptor, number: int, counts: tuple[int, ...], where: str) -> None:
        low, high = extent(d)
        least, most = _shift(d.levels, counts)
        limit = self.program.dram_bytes if d.space is Space.DRAM else MOST_ADDRESS
        if low + least < 0 or high + most > limit:
            message = (
                f"descriptor {number} reaches bytes {low + least} to {high + most} of {limit} in {d.space}"
            )
            refuse(message, where)

    def _check_page(self, instruction: Instruction, group: Group, where: str) -> None:
        if instruction.mnemonic == "WPROG" and instruction.b != group.page0:
            refuse(f"WPROG of page {instruction.b} for a group that starts at page {group.page0}", where)
        if instruction.mnemonic == "WPAGE":
            check_range(instruction.b, group.page0, group.page0 + group.pages - 1, "WPAGE: page", where)

    def _check_channels(self, instruction: Instruction, where: str) -> None:
        requant = self.program.requants[instruction.c]
        channels = max(len(requant.m), len(requant.b), len(requant.k))
        last = self.program.descriptors[instruction.a].counts[-1:]
        if channels != 1 and last != (channels,):
            refuse(f"VRQ: requant {instruction.c} is for {channels} channels, not {last}", where)

    def _check_pair(self, instruction: Instruction, where: str) -> None:
        number = self.program.descriptors[instruction.a].requant
        if number == NO_TABLE:
            refuse(f"VADDQ: descriptor {instruction.a} names no requant", where)
        requant = self.program.requants[number]
        if (len(requant.m), len(requant.b), len(requant.k)) != (2, 1, 1):
            refuse(f"VADDQ: requant {number} does not hold two multipliers, one offset and one shift", where)


def _shift(steps: Sequence[int], counts: Sequence[int]) -> tuple[int, int]:
    """Least and most that REPEAT indices add; both innermost first."""
    moves = [(n - 1) * step for step, n in zip(steps, counts, strict=False)]
    return sum(min(move, 0) for move in moves), sum(max(move, 0) for move in moves)
