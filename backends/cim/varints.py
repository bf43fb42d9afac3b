"""Integers as bytes, seven bits each, lowest first, the top bit set on all but the last byte (LEB128)."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import ProgramError

MOST_VARINT_BYTES = 10
CHUNK = 4096
HINT = "the program is damaged: compile it again"
U64 = NDArray[np.uint64]


def pack(values: Sequence[int]) -> bytes:
    """The bytes of integers 0 .. 2^64 - 1."""
    rest = np.array(values, np.uint64)
    lengths = np.ones(len(rest), np.int64)
    for length in range(1, MOST_VARINT_BYTES):
        lengths += rest >= np.uint64(1 << 7 * length)
    starts = np.cumsum(lengths) - lengths
    data = np.zeros(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        here = lengths > place
        more = (lengths[here] > place + 1).astype(np.uint8) << 7
        data[starts[here] + place] = (rest[here] & np.uint64(127)).astype(np.uint8) | more
        rest >>= np.uint64(7)
    return data.tobytes()


def unpack(data: bytes, where: str) -> U64:
    """The integers in `data`, of which there are at most as many as bytes.

    Args:
        data: what `pack` wrote.
        where: for messages.

    Raises:
        ProgramError: the last one is cut off, one has more than 64 bits, or is written longer than it needs to be.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 128)
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        raise ProgramError("the last number is cut off", where=where, hint=HINT)
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    last = raw[ends]
    if longest > MOST_VARINT_BYTES or (last[lengths == MOST_VARINT_BYTES] > 1).any():
        raise ProgramError("a number of more than 64 bits", where=where, hint=HINT)
    if (last[lengths > 1] == 0).any():
        raise ProgramError("a number with leading zeros", where=where, hint=HINT)
    values = np.zeros(len(ends), np.uint64)
    for place in range(longest):
        here = lengths > place
        values[here] |= (raw[starts[here] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
    return values


class Cursor:
    """Reads integers in order, and nothing beyond their end.

    Args:
        values: from `unpack`.
        where: for messages.
    """

    def __init__(self, values: U64, where: str) -> None:
        self._values, self._at, self._base = values, 0, 0
        self._chunk: list[int] = []  # of Python integers, which take four times the room
        self.where = where

    @property
    def left(self) -> int:
        """Integers not read yet."""
        return len(self._values) - self._at

    def next(self) -> int:
        """One integer.

        Raises:
            ProgramError: there is none left.
        """
        if not 0 <= self._at - self._base < len(self._chunk):
            if not self.left:
                self.refuse("it ends too early")
            self._base, self._chunk = self._at, self._values[self._at : self._at + CHUNK].tolist()
        self._at += 1
        return self._chunk[self._at - 1 - self._base]

    def take(self, count: int) -> list[int]:
        """That many integers.

        Raises:
            ProgramError: there are not so many left.
        """
        if count > self.left:
            self.refuse("it ends too early")
        self._at += count
        found: list[int] = self._values[self._at - count : self._at].tolist()
        return found

    def refuse(self, message: str) -> NoReturn:
        """Say that the section is damaged.

        Raises:
            ProgramError: always.
        """
        raise ProgramError(message, where=self.where, hint=HINT)
