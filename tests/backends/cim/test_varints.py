"""Packed integers, against a loop over single bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.varints import CHUNK, Cursor, pack, unpack
from lpcompile.errors import ProgramError

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))


def packed_one(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@given(st.lists(NUMBERS, max_size=30))
def test_packing(values: list[int]) -> None:
    data = pack(values)
    assert data == b"".join(map(packed_one, values))
    assert unpack(data, "x").tolist() == values


@given(st.binary(max_size=30))
def test_every_bytes_have_one_reading_or_none(data: bytes) -> None:
    try:
        values = unpack(data, "x").tolist()
    except ProgramError:
        return
    assert pack(values) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\x80", "cut off"),
        (b"\x80" * 10 + b"\x01", "more than 64 bits"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x81\x00", "leading zeros"),
    ],
)
def test_damaged_integers(data: bytes, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        unpack(data, "x")


def test_a_cursor_reads_no_further_than_there_is() -> None:
    values = list(range(2 * CHUNK + 5))
    cursor = Cursor(unpack(pack(values), "x"), "x")
    assert [cursor.next(), *cursor.take(CHUNK + 3), cursor.next()] == values[: CHUNK + 5]
    assert [cursor.next() for _ in range(cursor.left)] == values[CHUNK + 5 :]
    for read in (cursor.next, lambda: cursor.take(1)):
        with pytest.raises(ProgramError, match="x: it ends too early"):
            read()
