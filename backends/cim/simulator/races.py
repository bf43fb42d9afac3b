"""Two accesses to the same bytes, one a write, without an order between them: a race, whatever the timing."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.simulator.accesses import Access
from lpcompile.backends.cim.simulator.ordering import Order
from lpcompile.backends.cim.simulator.overlap import overlap
from lpcompile.backends.cim.simulator.streams import Operation, Schedule
from lpcompile.errors import ProgramError

_CHUNK_PAIRS = 1 << 20
_MOST_PAIRS = 1 << 27
MEMORIES = {-1: "dram", -2: "gb"}


@dataclass(frozen=True)
class Race:
    """Two operations that are not ordered.

    Attributes:
        first, second: the operations.
        memory: that they meet in.
        low, high: bytes within which they meet.
    """

    first: Operation
    second: Operation
    memory: str
    low: int
    high: int

    def __str__(self) -> str:
        return f"bytes {self.low} to {self.high} of {self.memory}: {self.first} and {self.second} are not ordered"


@dataclass(frozen=True)
class _Lane:
    """Accesses of one lane to neighbouring bytes, in order."""

    items: list[Access]
    positions: NDArray[np.int64]
    clocks: NDArray[np.int64]  # rows of the order
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    writes: NDArray[np.bool_]


def races(schedule: Schedule, found: list[Access], order: Order) -> Iterator[Race]:
    """All races of a schedule.

    Accesses of another lane that are not ordered with a given one stand in a row: behind those that it knows of,
    before the first that knows of it.  So pairs that are ordered are never looked at.

    Raises:
        ProgramError: so much is unordered that it would take too long.
    """
    looked_at = 0
    for cluster in _clusters(found):
        lanes = _by_lane(cluster, order)
        if not any(lane.writes.any() for lane in lanes.values()):
            continue
        numbers = sorted(lanes)
        for i, a in enumerate(numbers):
            for b in numbers[i + 1 :]:
                if not (lanes[a].writes.any() or lanes[b].writes.any()):
                    continue
                begin, lengths = _unordered(order, a, lanes[a], b, lanes[b])
                looked_at += int(lengths.sum())
                if looked_at > _MOST_PAIRS:
                    raise ProgramError(
                        f"{schedule.name} leaves too many accesses unordered to look at them all",
                        hint="order its queues more often, by BAR or by SIG and WAIT",
                    )
                yield from _between(schedule, (a, lanes[a]), (b, lanes[b]), begin, lengths)


def _clusters(found: list[Access]) -> Iterator[list[Access]]:
    """Accesses of one memory whose bounds hang together."""
    memories: dict[int, list[Access]] = defaultdict(list)
    for access in found:
        memories[access.memory].append(access)
    for accesses in memories.values():
        accesses.sort(key=lambda a: a.footprint.low)
        start, end = 0, -1
        for index, access in enumerate(accesses):
            if access.footprint.low >= end and index > start:
                yield accesses[start:index]
                start = index
            end = max(end, access.footprint.high)
        yield accesses[start:]


def _by_lane(cluster: list[Access], order: Order) -> dict[int, _Lane]:
    lanes: dict[int, list[Access]] = defaultdict(list)
    for access in cluster:
        lanes[access.lane].append(access)
    found = {}
    for lane, items in lanes.items():
        items.sort(key=lambda a: a.position)
        positions = np.array([a.position for a in items], np.int64)
        found[lane] = _Lane(
            items,
            positions,
            order.row_of[lane][positions],
            np.array([a.footprint.low for a in items], np.int64),
            np.array([a.footprint.high for a in items], np.int64),
            np.array([a.writes for a in items], bool),
        )
    return found


def _unordered(
    order: Order, a: int, first: _Lane, b: int, second: _Lane
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each access of lane a the first access of lane b that is not ordered with it, and how many follow."""
    # of lane b, what each access of lane a knows of, and from where on it is known
    begin = np.searchsorted(second.positions, order.rows[first.clocks, b], side="left")
    known = order.rows[second.clocks, a]  # grows along the lane
    end = np.searchsorted(known, first.positions + 1, side="left")
    return begin, np.maximum(end - begin, 0)


def _between(
    schedule: Schedule,
    left: tuple[int, _Lane],
    right: tuple[int, _Lane],
    begin: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Iterator[Race]:
    (a, first), (b, second) = left, right
    start = 0
    sums = np.cumsum(lengths)
    while start < len(lengths):
        base = sums[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sums, base + _CHUNK_PAIRS, side="right")))
        part = lengths[start:stop]
        i = np.repeat(np.arange(start, stop), part)
        offsets = np.arange(len(i)) - np.repeat(np.cumsum(part) - part, part)
        j = begin[i] + offsets
        hit = (
            (first.low[i] < second.high[j])
            & (second.low[j] < first.high[i])
            & (first.writes[i] | second.writes[j])
        )
        for x, y in zip(i[hit].tolist(), j[hit].tolist(), strict=True):
            one, other = first.items[x], second.items[y]
            if overlap(one.footprint, other.footprint):
                yield Race(
                    schedule.lanes[a][one.position],
                    schedule.lanes[b][other.position],
                    MEMORIES.get(one.memory, f"lb of core {one.memory}"),
                    max(one.footprint.low, other.footprint.low),
                    min(one.footprint.high, other.footprint.high),
                )
        start = stop
