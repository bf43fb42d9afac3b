"""Which operations of a schedule are ordered in every run: queue order, BAR, messages and events.

Streams have no data-dependent branch, so one schedule stands for all runs.  Operations carry vector clocks over
lanes: `clock[lane]` counts the operations of that lane which always come before.
"""

from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Queue
from lpcompile.backends.cim.simulator.streams import Operation, Schedule
from lpcompile.errors import ProgramError

_ROUNDS = 16
_MOST_SIGNALS = 2000  # of one event with several senders: the table of their order is quadratic

_MOST_CLOCKS = 1 << 28  # entries of vector clocks

Place = tuple[int, int]  # (lane, position)


@dataclass
class Order:
    """The order of a schedule.

    Attributes:
        rows: vector clocks, int32 (row, lane); a row serves all operations of a lane until it next waits.
        row_of: by lane, the row of each operation.
        sequence: places in one legal order, each BAR once.
        stuck: operations that are never reached, where the schedule waits for ever.
        unbalanced: (core, event, what is left) of events that do not end at zero.
        unreceived: (sender, receiver, tag) of messages that nobody receives.
        contended: (core, event) whose WAITs stand in several queues without an order among them, so that who gets
            a signal depends on time.
    """

    rows: NDArray[np.int32]
    row_of: list[NDArray[np.int64]]
    sequence: list[Place] = field(default_factory=list)
    stuck: list[Operation] = field(default_factory=list)
    unbalanced: list[tuple[int, int, int]] = field(default_factory=list)
    unreceived: list[tuple[int, int, int]] = field(default_factory=list)
    contended: list[tuple[int, int]] = field(default_factory=list)

    def before(self, first: Place, second: Place) -> bool:
        """Whether `first` ends before `second` starts, in every run."""
        if first[0] == second[0]:
            return first[1] < second[1]
        return bool(self.rows[self.row_of[second[0]][second[1]], first[0]] > first[1])


def order_of(schedule: Schedule) -> Order:
    """Play the schedule once without times, then derive what holds in every run."""
    game = _Game(schedule)
    edges = game.certain_edges()
    order = game.clocks(edges)
    for _ in range(_ROUNDS if game.shared else 0):
        more = game.derived_edges(order)
        if all(more.get(k) == edges.get(k) for k in game.shared_waits):
            break
        edges = {**edges, **more}
        order = game.clocks(edges)
    order.sequence = game.sequence
    order.stuck = game.stuck
    order.unbalanced = [(*key, left) for key, left in sorted(game.counters.items()) if left]
    order.unreceived = [key for key, sent in sorted(game.messages.items()) if sent]
    order.contended = [key for key in game.shared if game.is_contended(key, order)]
    return order


class _Game:
    """The schedule played as a token game: whatever can go on does."""

    def __init__(self, schedule: Schedule) -> None:
        self.lanes = schedule.lanes
        self.counters: dict[tuple[int, int], int] = defaultdict(int)
        self.messages: dict[tuple[int, int, int], deque[Place]] = defaultdict(deque)
        self.received: dict[Place, Place] = {}
        self.signals: dict[tuple[int, int], list[Place]] = defaultdict(list)
        self.waits: dict[tuple[int, int], list[Place]] = defaultdict(list)
        self.synchronising: list[Place] = []  # WAIT, RECV and BAR in the order of the game
        self.sequence: list[Place] = []
        self.stuck: list[Operation] = []
        self._barriers = [
            {o: i for i, o in enumerate(operations) if o.instruction.mnemonic == "BAR"}
            for operations in self.lanes
        ]
        self._play()
        if (len(self.lanes) + len(self.synchronising)) * len(self.lanes) > _MOST_CLOCKS:
            raise ProgramError(
                f"{schedule.name} waits {len(self.synchronising)} times, too often to prove its order",
                hint="put fewer WAITs into REPEATs",
            )
        self.shared = [
            key
            for key, waits in self.waits.items()
            if len({lane for lane, _ in waits}) > 1 or len({lane for lane, _ in self.signals[key]}) > 1
        ]
        self.shared_waits = [wait for key in self.shared for wait in self.waits[key]]

    def _play(self) -> None:
        at = [0] * len(self.lanes)
        ready = deque(range(len(self.lanes)))
        blocked: dict[tuple[int, ...], list[int]] = defaultdict(list)
        barriers: dict[Operation, list[int]] = defaultdict(list)
        while ready:
            lane = ready.popleft()
            operations = self.lanes[lane]
            while at[lane] < len(operations):
                place = (lane, at[lane])
                operation = operations[at[lane]]
                word = operation.instruction
                if word.mnemonic == "BAR":
                    there = barriers[operation]
                    there.append(lane)
                    if len(there) < len(Queue):
                        break
                    self.synchronising.append(place)
                    self.sequence.append(place)
                    for member in there:
                        at[member] += 1
                        if member != lane:
                            ready.append(member)
                    continue
                if word.mnemonic == "WAIT":
                    event = (operation.core, word.a)
                    if self.counters[event] < word.b:
                        blocked[event].append(lane)
                        break
                    self.counters[event] -= word.b
                    self.waits[event].append(place)
                    self.synchronising.append(place)
                elif word.mnemonic == "RECV":
                    message = (word.b, operation.core, word.c)
                    if not self.messages[message]:
                        blocked[message].append(lane)
                        break
                    self.received[place] = self.messages[message].popleft()
                    self.synchronising.append(place)
                elif word.mnemonic == "SIG":
                    event = (word.b, word.a)
                    self.counters[event] += 1
                    self.signals[event].append(place)
                    ready.extend(blocked.pop(event, ()))
                elif word.mnemonic == "SEND":
                    message = (operation.core, word.b, word.c)
                    self.messages[message].append(place)
                    ready.extend(blocked.pop(message, ()))
                self.sequence.append(place)
                at[lane] += 1
        self.stuck = [
            operations[at[lane]] for lane, operations in enumerate(self.lanes) if at[lane] < len(operations)
        ]

    def certain_edges(self) -> dict[Place, list[Place]]:
        """By WAIT and RECV, what came before, where one lane signals and one waits: the n-th for the n-th."""
        edges = {place: [sent] for place, sent in self.received.items()}
        for key, waits in self.waits.items():
            if key in self.shared:
                continue
            taken = 0
            for lane, position in waits:
                taken += self.lanes[lane][position].instruction.b
                edges[lane, position] = [self.signals[key][taken - 1]] if taken else []
        return edges

    def clocks(self, edges: dict[Place, list[Place]]) -> Order:
        """Vector clocks from the edges."""
        width = len(self.lanes)
        rows = np.zeros((width + len(self.synchronising), width), np.int32)
        # by lane: positions from which on a row serves, and the rows
        starts: list[list[int]] = [[0] for _ in range(width)]
        numbers = [[lane] for lane in range(width)]
        for made, (lane, position) in enumerate(self.synchronising, width):
            operation = self.lanes[lane][position]
            row = rows[made]
            if operation.instruction.mnemonic == "BAR":
                members = [4 * operation.core + queue for queue in Queue]
                rows[[numbers[m][-1] for m in members]].max(axis=0, out=row)
                for member in members:
                    at = self._barriers[member][operation]
                    row[member] = at
                    starts[member].append(at)
                    numbers[member].append(made)
                continue
            row[:] = rows[numbers[lane][-1]]
            for source, at in edges.get((lane, position), ()):
                np.maximum(row, rows[numbers[source][bisect_right(starts[source], at) - 1]], out=row)
                row[source] = max(row[source], at + 1)
            starts[lane].append(position)
            numbers[lane].append(made)
        row_of = []
        for lane, operations in enumerate(self.lanes):
            found = np.searchsorted(starts[lane], np.arange(len(operations)), side="right") - 1
            row_of.append(np.array(numbers[lane], np.int64)[found])
        return Order(rows, row_of)

    def derived_edges(self, order: Order) -> dict[Place, list[Place]]:
        """Edges of events with several senders or waiters: the signals without which a WAIT cannot pass.

        A WAIT passes when as many signals have come as it and the WAITs before it take off. A signal surely came
        before if those that may come without it are fewer.
        """
        edges: dict[Place, list[Place]] = {}
        for key in self.shared:
            signals, waits = self.signals[key], self.waits[key]
            after = _precedes(order, signals, signals) if len(signals) <= _MOST_SIGNALS else None
            earlier = _precedes(order, waits, waits)
            later = _precedes(order, waits, signals)  # signals that wait for the WAIT
            amounts = np.array([self.lanes[lane][i].instruction.b for lane, i in waits])
            lanes = np.array([lane for lane, _ in signals])
            for index, wait in enumerate(waits):
                needed = amounts[index] + int(amounts[earlier[:, index]].sum())
                possible = ~later[index]
                if after is not None:
                    without = (possible & ~after).sum(axis=1) - 1  # all but itself and those after it
                else:
                    total = int(possible.sum())
                    rank = np.zeros(len(signals), np.int64)
                    for lane in np.unique(lanes):
                        mine = lanes == lane
                        rank[mine] = total - possible[mine].sum() + np.arange(int(mine.sum()))
                    without = rank
                sure = possible & (without < needed)
                last = {signals[i][0]: signals[i] for i in np.flatnonzero(sure)}
                edges[wait] = list(last.values())
        return edges

    def is_contended(self, key: tuple[int, int], order: Order) -> bool:
        """Whether two WAITs of an event may want the same signal."""
        waits = self.waits[key]
        ordered = _precedes(order, waits, waits)
        return not bool((ordered | ordered.T | np.eye(len(waits), dtype=bool)).all())


def _precedes(order: Order, first: list[Place], second: list[Place]) -> NDArray[np.bool_]:
    """Whether each of `first` comes before each of `second`, (first, second)."""
    lanes, positions = (np.array(v) for v in zip(*first, strict=True))
    rows = np.array([order.row_of[lane][position] for lane, position in second])
    found = positions[:, None] < order.rows[np.ix_(rows, lanes)].T
    second_lanes, second_positions = (np.array(v) for v in zip(*second, strict=True))
    same = lanes[:, None] == second_lanes[None, :]
    return np.asarray(np.where(same, positions[:, None] < second_positions[None, :], found))
