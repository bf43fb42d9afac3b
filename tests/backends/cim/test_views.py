"""Views against numpy's own strided arrays."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from lpcompile.backends.cim.views import View, channels_last, merged_dims, packed_strides

MEMORY = np.random.default_rng(0).permutation(1 << 12).astype(np.int32)
BYTES = MEMORY.view(np.uint8)


def array(view: View) -> NDArray[np.int32]:
    start = BYTES[view.offset : view.offset + 4].view(np.int32) if view.size else MEMORY[:1]
    return as_strided(start, view.shape, view.strides, writeable=False)


@st.composite
def views(draw: st.DrawFn) -> View:
    """A dense view in any order of axes, perhaps cut, with steps."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    order = draw(st.permutations(range(len(shape))))
    view = View(0, "i32", shape, packed_strides(shape, order, 4), 4 * draw(st.integers(0, 9)))
    for axis in range(len(shape)):
        if draw(st.booleans()):
            first = draw(st.integers(0, view.shape[axis] - 1))
            step = draw(st.integers(1, 2))
            count = draw(st.integers(1, (view.shape[axis] - first + step - 1) // step))
            view = view.taken(axis, first, count, step)
    return view


@given(views(), st.data())
def test_moves_are_those_of_numpy(view: View, data: st.DataObject) -> None:
    a = array(view)
    order = data.draw(st.permutations(range(len(view.shape))))
    np.testing.assert_array_equal(array(view.transposed(order)), a.transpose(order))
    axis = data.draw(st.integers(0, len(view.shape) - 1))
    first = data.draw(st.integers(0, view.shape[axis] - 1))
    np.testing.assert_array_equal(array(view.taken(axis, first, 1).dropped(axis)), a.take(first, axis))
    wide = (2, *(3 if n == 1 else n for n in view.shape))
    np.testing.assert_array_equal(array(view.expanded(wide)), np.broadcast_to(a, wide))


@given(views(), st.data())
def test_reshaping_is_numpys_or_a_copy(view: View, data: st.DataObject) -> None:
    left, shape = view.size, list[int]()
    while left > 1 and len(shape) < 4:
        shape.append(data.draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0])))
        left //= shape[-1]
    shape.append(left)
    found = view.reshaped(shape)
    if found is not None:
        np.testing.assert_array_equal(array(found), array(view).reshape(shape))
    else:  # numpy needs a copy as well
        copy = array(view).reshape(shape)
        assert not np.shares_memory(copy, MEMORY)


@given(views())
def test_a_dense_view_takes_every_shape(view: View) -> None:
    dense = View(0, "i32", view.shape, packed_strides(view.shape, range(len(view.shape)), 4))
    for shape in {(view.size,), (1, view.size), (view.size, 1), *itertools.permutations(view.shape)}:
        found = dense.reshaped(shape)
        assert found is not None
        np.testing.assert_array_equal(array(found), array(dense).reshape(shape))


@given(views())
def test_merged_axes_visit_the_same_elements(view: View) -> None:
    other = packed_strides(view.shape, range(len(view.shape)), 1)
    dims, positions = merged_dims(view.shape, view.strides, other)
    counts = [n for n, _ in dims]
    assert counts == [n for n, _ in positions]
    assert len(counts) <= max(1, len(view.shape))
    merged = View(0, "i32", tuple(counts), tuple(s for _, s in dims), view.offset)
    np.testing.assert_array_equal(array(merged).reshape(-1), array(view).reshape(-1))
    offsets = sum(np.indices(counts)[i] * s for i, (_, s) in enumerate(positions))
    np.testing.assert_array_equal(np.asarray(offsets).reshape(-1), np.arange(view.size))


def test_orders() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(2) == (0, 1)
    assert packed_strides((2, 3, 4, 5), channels_last(4), 1) == (60, 1, 15, 3)
    assert merged_dims((1, 1), (7, 7)) == (((1, 0),),)
