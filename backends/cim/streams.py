"""From work in program order to streams of cores: events where two queues touch the same bytes. [cim-machine 2].

Lowering writes down what would be right if it were done one instruction after the other.  Every instruction goes to a
queue of a core; queues run beside each other, so whatever reads or overwrites bytes that another queue touched before
waits for an event of it.  Edges only lead forward in program order, so token graphs are acyclic by construction, and a
race is impossible; `proofs` checks both again on the finished program.

Vector clocks drop the events that others imply.  A pair of queues has one event of its own, and takes its tokens in
order, so every WAIT takes exactly one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Descriptor, Instruction, Queue, Space
from lpcompile.backends.cim.regions import Region
from lpcompile.backends.cim.tables import Tables

QUEUES = len(Queue)
EVERYWHERE = Region(0, 1 << 62, (), 1 << 62)
LB_BUFFER = -1
CONST_BUFFER = -2  # never written: nothing waits for it


@dataclass(frozen=True, slots=True)
class Access:
    """An operand: its descriptor and the number of its buffer (LB_BUFFER if local, CONST_BUFFER if constant)."""

    descriptor: Descriptor
    buffer: int = LB_BUFFER


@dataclass(slots=True)
class _Record:
    region: Region
    writes: bool
    lane: int
    position: int


@dataclass(slots=True)
class _Lane:
    """One queue of one core: its instructions with the tokens around them."""

    clock: NDArray[np.int32]
    length: int = 0


@dataclass(slots=True)
class _Entry:
    node: int
    queue: Queue
    instruction: Instruction
    waits: list[int]  # events
    signals: list[tuple[int, int]] = field(default_factory=list)  # (event, core)


class Streams:
    """The streams of all cores for the boot or for one device stage."""

    def __init__(self, cores: int, tables: Tables) -> None:
        self.cores, self.tables = cores, tables
        self._lanes = [_Lane(np.zeros(cores * QUEUES, np.int32)) for _ in range(cores * QUEUES)]
        self._clocks: list[list[NDArray[np.int32]]] = [[] for _ in range(cores * QUEUES)]
        self._entries: list[list[_Entry]] = [[] for _ in range(cores * QUEUES)]
        self._order: list[list[_Entry]] = [[] for _ in range(cores)]
        self._records: dict[tuple[int, int], list[_Record]] = defaultdict(list)
        self.count = 0

    def reuse(self, buffer: int, earlier: Sequence[int]) -> None:
        """Say that a buffer takes over bytes of earlier ones: it waits for the last access of each queue to them."""
        last: dict[int, _Record] = {}
        for old in earlier:
            for r in self._records.get((old, 0), ()):
                if r.lane not in last or last[r.lane].position < r.position:
                    last[r.lane] = r
        self._records[(buffer, 0)] += [
            _Record(EVERYWHERE, True, lane, last[lane].position) for lane in sorted(last)
        ]

    def emit(
        self,
        core: int,
        queue: Queue,
        instruction: Instruction,
        node: str,
        *,
        reads: Sequence[Access] = (),
        writes: Sequence[Access] = (),
    ) -> None:
        """Add one instruction in program order."""
        lane = core * QUEUES + queue
        clock = self._lanes[lane].clock.copy()
        waits: list[int] = []
        position = self._lanes[lane].length
        for access, writing in (*((r, False) for r in reads), *((w, True) for w in writes)):
            if access.buffer == CONST_BUFFER:
                continue
            local = access.descriptor.space is Space.LB
            key = (LB_BUFFER, core) if local else (access.buffer, 0)
            region = Region.of(access.descriptor)
            records = self._records[key]
            kept: list[_Record] = []
            for r in records:
                if (writing or r.writes) and region.overlaps(r.region):
                    if r.lane != lane and clock[r.lane] <= r.position:
                        waits.append(self._after(r, lane, core, clock))
                    if writing and region.holds(r.region):
                        continue  # whoever comes next is ordered behind this write
                kept.append(r)
            kept.append(_Record(region, writing, lane, position))
            self._records[key] = kept
        clock[lane] = position + 1
        self._lanes[lane].clock = clock
        self._lanes[lane].length += 1
        self._clocks[lane].append(clock)
        entry = _Entry(self.tables.nodes.add(node), queue, instruction, waits)
        self._entries[lane].append(entry)
        self._order[core].append(entry)
        self.count += 1

    def _after(self, record: _Record, lane: int, core: int, clock: NDArray[np.int32]) -> int:
        """Let `lane` go on only after a recorded access; the event that tells."""
        event = record.lane * QUEUES + lane % QUEUES
        self._entries[record.lane][record.position].signals.append((event, core))
        np.maximum(clock, self._clocks[record.lane][record.position], out=clock)
        return event

    def code(self, core: int) -> tuple[Instruction, ...]:
        """The finished stream of a core."""
        found: list[Instruction] = []
        node = -1
        for e in self._order[core]:
            if e.node != node:
                node = e.node
                found.append(Instruction("MARK", a=node))
            found += [Instruction("WAIT", a=event, b=1, unit=int(e.queue)) for event in e.waits]
            found.append(e.instruction)
            found += [Instruction("SIG", a=event, b=to, unit=int(e.queue)) for event, to in e.signals]
        return (*found, Instruction("HALT"))
