"""Addresses of buffers by live ranges: first fit, longest-lived and largest first; what does not fit goes off chip."""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGN = 64


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
