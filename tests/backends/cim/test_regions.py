"""Regions against explicit sets of bytes: a 'no' is never wrong, and right where slices share a pitch."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.backends.cim.program import DTYPE_BYTES, Descriptor, Space
from lpcompile.backends.cim.regions import Region


def descriptor(base: int, dims: tuple[tuple[int, int], ...], dtype: str = "u8") -> Descriptor:
    return Descriptor(Space.GB, dtype, base, dims)


def touched(d: Descriptor) -> set[int]:
    starts = (sum(i * s for i, (_, s) in zip(index, d.dims, strict=True)) for index in
              product(*(range(n) for n in d.counts)))  # fmt: skip
    return {d.base + start + byte for start in starts for byte in range(DTYPE_BYTES[d.dtype])}


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    dims = draw(
        st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 24])), max_size=4)
    )
    return descriptor(
        draw(st.integers(0, 40)), tuple(dims), draw(st.sampled_from(["u8", "u8", "i16", "i32"]))
    )


@pytest.mark.thorough
@settings(max_examples=200)
@given(descriptors(), descriptors())
def test_a_no_is_never_wrong(a: Descriptor, b: Descriptor) -> None:
    one, other = Region.of(a), Region.of(b)
    left, right = touched(a), touched(b)
    assert (one.first, one.end) == (min(left), max(left) + 1)
    assert one.overlaps(other) == other.overlaps(one)
    if not one.overlaps(other):
        assert not left & right
    if one.holds(other):
        assert right <= left
    if one.dense:
        assert left == set(range(one.first, one.end))


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 11),
    st.integers(1, 5),
    st.integers(0, 11),
    st.integers(1, 5),
)
def test_slices_of_one_pitch_are_told_apart(n: int, m: int, a: int, wa: int, b: int, wb: int) -> None:
    pitch = 12
    one = descriptor(a % (pitch - wa + 1), ((n, pitch), (wa, 1)))
    other = descriptor(b % (pitch - wb + 1), ((m, pitch), (wb, 1)))
    assert Region.of(one).overlaps(Region.of(other)) == bool(touched(one) & touched(other))


@pytest.mark.parametrize("dtype", list(DTYPE_BYTES))
def test_arrays_without_gaps_are_dense_in_any_order_of_axes(dtype: str) -> None:
    item = DTYPE_BYTES[dtype]
    packed = ((3, 20 * item), (5, 4 * item), (4, item))
    for dims in (packed, packed[::-1]):
        whole = Region.of(descriptor(8, dims, dtype))
        assert whole.dense
        assert whole.holds(Region.of(descriptor(8 + 20 * item, packed[1:], dtype)))
    assert not Region.of(descriptor(8, ((3, 21 * item), *packed[1:]), dtype)).dense
