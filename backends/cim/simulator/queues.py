"""The four queues of every core as a discrete-event model: who starts when, and in which order effects happen.

An operation takes effect when it starts: all that it waits for has ended by then.  A counter goes up, and a message
arrives, when its SIG or SEND ends.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from lpcompile.backends.cim.program import Program, Queue
from lpcompile.backends.cim.simulator.capacities import Limits
from lpcompile.backends.cim.simulator.dispatch import Dispatch
from lpcompile.backends.cim.simulator.streams import Operation, Schedule
from lpcompile.backends.cim.simulator.timing import Timing, Work
from lpcompile.errors import ProgramError

Report = Callable[[Operation, int, int, Work], None]
_SHOWN = 4


@dataclass(slots=True)
class _Lane:
    number: int
    operations: list[Operation]
    next: int = 0
    running: Operation | None = None
    waiting: bool = False


class Queues:
    """Runs schedules on one machine."""

    def __init__(self, program: Program, dispatch: Dispatch, timing: Timing, limits: Limits) -> None:
        self.program = program
        self.dispatch = dispatch
        self.timing = timing
        self.limits = limits

    def run(self, schedule: Schedule, report: Report | None = None) -> int:
        """Execute a boot or a device stage.

        Args:
            schedule: what to execute.
            report: called with operation, start, end and work of each execution.

        Returns:
            Cycles until all queues are empty.

        Raises:
            ProgramError: an operation is wrong, the queues wait for ever, or the cycle limit is reached.
        """
        return _Run(self, schedule, report).finish()


class _Run:
    def __init__(self, queues: Queues, schedule: Schedule, report: Report | None) -> None:
        self.queues, self.schedule, self.report = queues, schedule, report
        self.dispatch = queues.dispatch
        self.dispatch.messages.clear()
        self.lanes = [_Lane(i, operations) for i, operations in enumerate(schedule.lanes)]
        self.counters: dict[tuple[int, int], int] = defaultdict(int)
        self.waiters: dict[tuple[int, ...], list[_Lane]] = defaultdict(list)
        self.barriers: dict[Operation, list[_Lane]] = defaultdict(list)
        self.free = [(0, lane.number) for lane in self.lanes if lane.operations]  # a heap of (cycle, lane)

    def finish(self) -> int:
        now = 0
        while self.free:
            now, number = heapq.heappop(self.free)
            if now > self.queues.limits.cycles:
                raise ProgramError(
                    f"{self.schedule.name} does not end within {self.queues.limits.cycles} cycles",
                    where=str(self.lanes[number].running),
                    hint="raise --max-cycles",
                )
            lane = self.lanes[number]
            if lane.running is not None:
                self._end(lane, lane.running, now)
            self._start(lane, now)
        self._check_end()
        return now

    def _start(self, lane: _Lane, now: int) -> None:
        """Start the next operation of a free lane, or have it wait."""
        if lane.next == len(lane.operations):
            return
        operation = lane.operations[lane.next]
        word = operation.instruction
        if word.mnemonic == "BAR":
            self._barrier(lane, operation, now)
            return
        if word.mnemonic == "WAIT":
            counter = (operation.core, word.a)
            if self.counters[counter] < word.b:
                self._wait(lane, counter)
                return
            self.counters[counter] -= word.b
        elif word.mnemonic == "RECV" and not self.dispatch.messages.arrived(operation):
            self._wait(lane, (operation.core, word.b, word.c))
            return
        work = self.dispatch.start(operation)
        length = self.queues.timing.cycles(operation.core, word, self.queues.program, work)
        if length < 0:
            raise operation.fault(f"the machine gives it {length} cycles")
        lane.next += 1
        lane.running = operation
        heapq.heappush(self.free, (now + length, lane.number))
        self.dispatch.context.counters.instructions += 1
        if self.report is not None:
            self.report(operation, now, now + length, work)

    def _end(self, lane: _Lane, operation: Operation, now: int) -> None:
        lane.running = None
        word = operation.instruction
        if word.mnemonic == "SIG":
            if not 0 <= word.b < len(self.queues.program.cores):
                raise operation.fault(f"there is no core {word.b}")
            self.counters[word.b, word.a] += 1
            self._wake((word.b, word.a), now)
        elif word.mnemonic == "SEND":
            self.dispatch.end(operation)
            self._wake((word.b, operation.core, word.c), now)

    def _barrier(self, lane: _Lane, operation: Operation, now: int) -> None:
        there = self.barriers[operation]
        there.append(lane)
        if len(there) < len(Queue):
            return
        del self.barriers[operation]
        self.dispatch.context.counters.instructions += 1
        if self.report is not None:
            self.report(operation, now, now, self.dispatch.start(operation))
        for member in there:
            member.next += 1
            heapq.heappush(self.free, (now, member.number))

    def _wait(self, lane: _Lane, key: tuple[int, ...]) -> None:
        lane.waiting = True
        self.waiters[key].append(lane)

    def _wake(self, key: tuple[int, ...], now: int) -> None:
        for lane in self.waiters.pop(key, ()):
            lane.waiting = False
            heapq.heappush(self.free, (now, lane.number))

    def _check_end(self) -> None:
        stuck = [lane.operations[lane.next] for lane in self.lanes if lane.next < len(lane.operations)]
        if stuck:
            raise waits_for_ever(self.schedule.name, stuck)
        left = [key for key, count in self.counters.items() if count]
        if left:
            core, event = left[0]
            raise ProgramError(
                f"{self.schedule.name} ends with event {event} of core {core} at {self.counters[left[0]]}",
                hint="the WAITs of an event take off what its SIGs add",
            )
        messages = self.dispatch.messages.left()
        if messages:
            sender, receiver, tag = messages[0]
            raise ProgramError(
                f"{self.schedule.name} ends with a message from core {sender} to {receiver}, tag {tag}, "
                "that was not received"
            )


def waits_for_ever(name: str, stuck: list[Operation]) -> ProgramError:
    """An error that names what a boot or a device stage waits at."""
    waiting = list(dict.fromkeys(stuck))
    shown = "; ".join(map(str, waiting[:_SHOWN]))
    more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
    return ProgramError(
        f"{name} waits for ever: {shown}{more}",
        hint="every WAIT needs its SIG, every RECV its SEND, in an order without a circle",
    )
