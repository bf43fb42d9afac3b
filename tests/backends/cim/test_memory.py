"""Places and tiles."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lpcompile.backends.cim.memory import ALIGN, Addresses, Local, Place, tile
from lpcompile.backends.cim.program import DTYPE_BYTES, Space
from lpcompile.backends.cim.views import View

MEMORY = np.arange(400, dtype=np.uint16).astype(np.uint8)


def array(p: Place) -> np.ndarray:
    return as_strided(MEMORY[p.base :], p.shape, p.strides)


def test_parts_are_slices() -> None:
    place = tile("u8", 16, (3, 4, 5))
    np.testing.assert_array_equal(array(place), MEMORY[16:76].reshape(3, 4, 5))
    part = place.part([(1, 3), (2, 3)])
    np.testing.assert_array_equal(array(part), array(place)[1:3, 2:3])


def test_tiles_do_not_overlap() -> None:
    local = Local(2)
    found = [
        *local.tiles("u8", (3, 5)),
        *local.tiles("i32", (7,)),
        *local.tiles("i8", (1,), copies=1),
        *local.tiles("u8", ()),
    ]
    ends = [p.base + DTYPE_BYTES[p.dtype] * int(np.prod(p.shape)) for p in found]
    assert len(found) == 7
    assert all(p.base % ALIGN == 0 for p in found)
    assert all(end <= after.base for end, after in zip(ends, found[1:], strict=False))
    assert local.used >= ends[-1]


def test_views_stand_where_their_buffers_do() -> None:
    view = View(3, "i32", (2, 2), (8, 4), 16)
    found = Addresses({3: (Space.GB, 128)}).place(view)
    assert (found.space, found.base, found.buffer) == (Space.GB, 144, 3)
    access = found.access(bits=5)
    assert access.descriptor.dims == ((2, 8), (2, 4))
    assert (access.descriptor.bits, access.buffer) == (5, 3)
