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
from lpcompile.backends.cim.simulator.context import Effect
from lpcompile.backends.cim.simulator.dispatch import Dispatch
from lpcompile.backends.cim.simulator.streams import Operation, Schedule
from lpcompile.backends.cim.simulator.timing import Timing, Work
from lpcompile.errors import ProgramError

Report = Callable[[Operation, int, int, Work], None]
_SHOWN = 4
PLAIN, SIG, WAIT, SEND, RECV, BAR = range(6)
_KINDS = {"SIG": SIG, "WAIT": WAIT, "SEND": SEND, "RECV": RECV, "BAR": BAR}


@dataclass(slots=True, eq=False)
class _Step:
    """An operation, bound.

    Attributes:
        kind: which of those that the queues themselves act on, else PLAIN.
        key: number of the counter or message that it raises or waits for.
        amount: what a WAIT takes off.
        effect: what happens at its start; made when it is first executed.
        cycles: that it takes; -1 until it is known, and always where it depends on data.
    """

    operation: Operation
    kind: int
    key: int
    amount: int
    effect: Effect | None = None
    cycles: int = -1


@dataclass(slots=True)
class _Lane:
    number: int
    steps: list[_Step]
    next: int = 0
    running: _Step | None = None


@dataclass(frozen=True, slots=True)
class _Replay:
    """A schedule whose order and times no data change: what to do, in the order of the first run."""

    effects: tuple[Effect, ...]
    executed: int
    cycles: int


class Queues:
    """Runs schedules on one machine."""

    def __init__(self, program: Program, dispatch: Dispatch, timing: Timing, limits: Limits) -> None:
        self.program = program
        self.dispatch = dispatch
        self.timing = timing
        self.limits = limits
        self._bound: dict[str, tuple[list[list[_Step]], list[tuple[int, ...]]]] = {}
        self._replays: dict[str, _Replay] = {}

    def steps(self, schedule: Schedule) -> tuple[list[list[_Step]], list[tuple[int, ...]]]:
        """The operations of each lane, bound once for all samples, and what the keys stand for."""
        if schedule.name not in self._bound:
            keys: dict[tuple[int, ...], int] = {}
            steps = [[_step(o, keys) for o in lane] for lane in schedule.lanes]
            self._bound[schedule.name] = steps, list(keys)
        return self._bound[schedule.name]

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
        replay = None if report is not None else self._replays.get(schedule.name)
        if replay is not None:
            self.dispatch.context.counters.instructions += replay.executed
            for effect in replay.effects:
                effect()
            return replay.cycles
        run = _Run(self, schedule, report)
        cycles = run.finish()
        if run.static:
            self._replays[schedule.name] = _Replay(tuple(run.effects), run.executed, cycles)
        return cycles


class _Run:
    def __init__(self, queues: Queues, schedule: Schedule, report: Report | None) -> None:
        self.queues, self.schedule, self.report = queues, schedule, report
        self.dispatch = queues.dispatch
        self.dispatch.messages.clear()
        steps, self.keys = queues.steps(schedule)
        self.lanes = [_Lane(i, of_lane) for i, of_lane in enumerate(steps)]
        self.counters = [0] * len(self.keys)
        self.waiters: dict[int, list[_Lane]] = {}
        self.barriers: dict[Operation, list[_Lane]] = defaultdict(list)
        self.free = [(0, lane.number) for lane in self.lanes if lane.steps]  # a heap of (cycle, lane)
        self.executed = 0
        self.static = True
        self.effects: list[Effect] = []

    def finish(self) -> int:
        now = 0
        free, lanes, limit = self.free, self.lanes, self.queues.limits.cycles
        while free:
            now, number = heapq.heappop(free)
            lane = lanes[number]
            if now > limit:
                raise ProgramError(
                    f"{self.schedule.name} does not end within {limit} cycles",
                    where=None if lane.running is None else str(lane.running.operation),
                    hint="raise --max-cycles",
                )
            self._advance(lane, now)
        self.dispatch.context.counters.instructions += self.executed
        self._check_end()
        return now

    def _advance(self, lane: _Lane, now: int) -> None:
        """End what a lane has been running, then start one operation after the other until one takes time."""
        if lane.running is not None:
            self._end(lane.running, now)
            lane.running = None
        steps, counters, silent = lane.steps, self.counters, self.report is None
        while lane.next < len(steps):
            step = steps[lane.next]
            kind = step.kind
            if kind == WAIT:
                if counters[step.key] < step.amount:
                    self.waiters.setdefault(step.key, []).append(lane)
                    return
                counters[step.key] -= step.amount
            elif kind == BAR:
                self._barrier(lane, step, now)
                return
            elif kind == RECV and not self.dispatch.messages.arrived(step.operation):
                self.waiters.setdefault(step.key, []).append(lane)
                return
            lane.next += 1
            if silent and step.cycles == 0 and kind in (WAIT, SIG):
                self.executed += 1  # most of a program is that, and nobody listens
                length = 0
            else:
                length = self._start(step, now)
            if length:
                lane.running = step
                heapq.heappush(self.free, (now + length, lane.number))
                return
            if kind:
                self._end(step, now)

    def _start(self, step: _Step, now: int) -> int:
        """Do it, and say how long it takes."""
        operation = step.operation
        if step.effect is None:
            step.effect = self.dispatch.bind(operation)
        work = step.effect()
        length = step.cycles
        if length < 0:
            word = operation.instruction
            length = self.queues.timing.cycles(operation.core, word, self.queues.program, work)
            if length < 0:
                raise operation.fault(f"the machine gives it {length} cycles")
            if not work.varies:
                step.cycles = length
            else:
                self.static = False
        if step.kind in (SEND, RECV):
            self.static = False
        elif step.kind == PLAIN:
            self.effects.append(step.effect)
        self.executed += 1
        if self.report is not None:
            self.report(operation, now, now + length, work)
        return length

    def _end(self, step: _Step, now: int) -> None:
        if step.kind == SIG:
            self.counters[step.key] += 1
        elif step.kind == SEND:
            self.dispatch.arrive(step.operation)
        else:
            return
        if step.key in self.waiters:
            for lane in self.waiters.pop(step.key):
                heapq.heappush(self.free, (now, lane.number))

    def _barrier(self, lane: _Lane, step: _Step, now: int) -> None:
        there = self.barriers[step.operation]
        there.append(lane)
        if len(there) < len(Queue):
            return
        del self.barriers[step.operation]
        self.executed += 1
        if self.report is not None:
            self.report(step.operation, now, now, Work(indices=step.operation.indices))
        for member in there:
            member.next += 1
            heapq.heappush(self.free, (now, member.number))

    def _check_end(self) -> None:
        stuck = [lane.steps[lane.next].operation for lane in self.lanes if lane.next < len(lane.steps)]
        if stuck:
            raise waits_for_ever(self.schedule.name, stuck)
        for key, count in enumerate(self.counters):
            if count:
                core, event = self.keys[key]
                raise ProgramError(
                    f"{self.schedule.name} ends with event {event} of core {core} at {count}",
                    hint="the WAITs of an event take off what its SIGs add",
                )
        messages = self.dispatch.messages.left()
        if messages:
            sender, receiver, tag = messages[0]
            raise ProgramError(
                f"{self.schedule.name} ends with a message from core {sender} to {receiver}, tag {tag}, "
                "that was not received"
            )


def _step(operation: Operation, keys: dict[tuple[int, ...], int]) -> _Step:
    word = operation.instruction
    key: tuple[int, ...] = ()
    kind = _KINDS.get(word.mnemonic, PLAIN)
    if kind == SIG:
        key = (word.b, word.a)
    elif kind == WAIT:
        key = (operation.core, word.a)
    elif kind == SEND:
        key = (operation.core, word.b, word.c)
    elif kind == RECV:
        key = (word.b, operation.core, word.c)
    return _Step(operation, kind, keys.setdefault(key, len(keys)), word.b)


def waits_for_ever(name: str, stuck: list[Operation]) -> ProgramError:
    """An error that names what a boot or a device stage waits at."""
    waiting = list(dict.fromkeys(stuck))
    shown = "; ".join(map(str, waiting[:_SHOWN]))
    more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
    return ProgramError(
        f"{name} waits for ever: {shown}{more}",
        hint="every WAIT needs its SIG, every RECV its SEND, in an order without a circle",
    )
