"""Addresses of buffers: none that live together share a byte, and every reuse names who was there before."""

from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.allocate import ALIGN, Live, allocate


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 5)), max_size=12),
    st.integers(0, 1200),
)
def test_buffers_that_live_together_are_apart(sizes: list[tuple[int, int, int]], capacity: int) -> None:
    lives = [Live(i, size, first, first + more) for i, (size, first, more) in enumerate(sizes)]
    placed, left = allocate(lives, capacity)
    assert sorted([*placed, *left]) == list(range(len(lives)))
    for one in (v for v in lives if v.buffer in placed):
        at = placed[one.buffer].address
        assert at % ALIGN == 0
        assert at + one.size <= capacity
        for other in (v for v in lives if v.buffer in placed and v is not one):
            start = placed[other.buffer].address
            apart = at + max(1, one.size) <= start or start + max(1, other.size) <= at
            if one.first <= other.last and other.first <= one.last:
                assert apart
            elif not apart and other.last < one.first:
                assert other.buffer in placed[one.buffer].earlier


def test_what_fits_alone_finds_room() -> None:
    lives = [Live(0, 100, 0, 1), Live(1, 100, 2, 3), Live(2, 300, 0, 3)]
    placed, left = allocate(lives, 256)
    assert left == [2]
    assert placed[0].address == placed[1].address == 0
    assert placed[1].earlier == (0,)
