"""Addresses of buffers by live ranges: first fit, largest first; what does not fit goes off chip.

Layers run beside each other, so whoever takes over bytes has to wait for those who still read them.  Bytes are taken
over as late as the room allows: live ranges are stretched until the buffers would no longer fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

ALIGN = 64
STRETCHES = (1 << 30, 64, 16, 8, 4, 2, 1, 0)  # steps


@dataclass(frozen=True, slots=True)
class Live:
    """A buffer and the steps in which it is needed, both ends included."""

    buffer: int
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a buffer stands, and which earlier ones had some of its bytes."""

    address: int
    earlier: tuple[int, ...]


def allocate(lives: Sequence[Live], capacity: int) -> tuple[dict[int, Placed], list[int]]:
    """Place buffers in a memory of `capacity` bytes.

    Returns:
        Places by buffer, and the buffers that found none.
    """
    for stretch in STRETCHES:
        longer = [replace(live, last=live.last + stretch) for live in lives]
        found, left = _first_fit(longer, capacity)
        if not left or not stretch:
            break
    return found, left


def _first_fit(lives: Sequence[Live], capacity: int) -> tuple[dict[int, Placed], list[int]]:
    placed: list[tuple[int, int, Live]] = []  # (start, end, live)
    left: list[int] = []
    for live in sorted(lives, key=lambda v: (-v.size, v.first, v.buffer)):
        size = -(-max(1, live.size) // ALIGN) * ALIGN
        busy = sorted((s, e) for s, e, o in placed if o.first <= live.last and live.first <= o.last)
        at = 0
        for start, end in busy:
            if at + size <= start:
                break
            at = max(at, end)
        if at + size > capacity:
            left.append(live.buffer)
        else:
            placed.append((at, at + size, live))
    found = {
        live.buffer: Placed(
            start,
            tuple(
                o.buffer
                for s, e, o in placed
                if o is not live and o.last < live.first and s < end and start < e
            ),
        )
        for start, end, live in placed
    }
    return found, sorted(left)
