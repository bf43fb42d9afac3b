"""Planes of weights: every value by enumeration, stored columns against sums in plain integers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.planes import (
    cells_of,
    plane_bits,
    planes_of,
    store_planes,
    twos_complement,
    value_table,
)
from lpcompile.backends.cim.program import PlaneSet
from lpcompile.errors import EncodingError
from lpcompile.formats.base import resolve

FORMATS = {"int4": 4, "fixp4": 4, "posit4": 6, "pot4": 8, "nf4": 8, "int8": 8, "float4_e2m1fn": 5, "int2": 2}


@pytest.mark.parametrize(("name", "count"), FORMATS.items())
def test_a_format_takes_as_many_planes_as_the_range_of_its_image(name: str, count: int) -> None:
    image = resolve(name).image()
    assert image is not None
    values = np.asarray(image[0] if isinstance(image, tuple) else image).astype(np.int8).reshape(-1)
    planes = planes_of(values)
    assert len(planes.coefficients) == count
    back = np.tensordot(planes.coefficients, plane_bits(values, planes).astype(int), 1)
    np.testing.assert_array_equal(back, values)


def test_ranges_take_the_fewest_planes_that_hold_every_integer() -> None:
    for low, high in itertools.product(range(-128, 1, 7), range(0, 128, 7)):
        planes = twos_complement(low, high)
        values = {sum(c for c, b in zip(planes.coefficients, bits, strict=True) if b) for bits in
                  itertools.product((0, 1), repeat=len(planes.coefficients))}  # fmt: skip
        assert set(range(low, high + 1)) <= values
        assert values == set(value_table(planes))
        fewer = len(planes.coefficients) - 1
        assert (
            fewer == 0
            or len(range(low, high + 1)) > (1 << fewer)
            or min(values) // 2 > low
            or max(values) // 2 < high
        )


def test_planes_share_cells_by_sign() -> None:
    assert [cells_of(twos_complement(-8, 7), bits) for bits in (1, 2, 3)] == [4, 3, 2]
    assert [cells_of(twos_complement(0, 7), bits) for bits in (1, 2, 3)] == [3, 2, 1]


def test_planes_that_cannot_hold_a_weight_are_refused() -> None:
    with pytest.raises(EncodingError, match="cannot hold every weight"):
        plane_bits(np.array([[3]], np.int8), PlaneSet("odd", (1, 4)))


@given(st.integers(0, 10_000))
def test_stored_columns_restore_every_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, outputs, block = int(rng.integers(1, 40)), int(rng.integers(1, 5)), int(rng.integers(1, 17))
    low = int(rng.integers(-128, 1))
    weights = rng.integers(low, int(rng.integers(low, 127)) + 1, (rows, outputs)).astype(np.int8)
    most = [None, block // 2, block][int(rng.integers(3))]
    planes = planes_of(weights)
    stored = store_planes(weights, planes, block, most)
    x = rng.integers(0, 2, rows)
    total = np.zeros(outputs, int)
    for b, first in enumerate(range(0, rows, block)):
        part = slice(first, min(first + block, rows))
        read = np.einsum("k,pkn->pn", x[part], stored.bits[:, part].astype(int))
        np.testing.assert_array_equal(stored.ones[b], stored.bits[:, part].sum(1))
        counts = np.where(stored.inverted[b], x[part].sum() - read, read)
        total += np.tensordot(planes.coefficients, counts, 1)
        if most is not None and 2 * most + 1 >= part.stop - part.start:
            assert stored.ones[b].max(initial=0) <= most  # the pigeonhole: a column or its complement
    np.testing.assert_array_equal(total, x @ weights.astype(int))
    bits = np.unpackbits(np.frombuffer(stored.packed(), np.uint8), bitorder="little")
    np.testing.assert_array_equal(bits[: stored.bits.size].reshape(stored.bits.shape), stored.bits)


def test_only_columns_that_need_it_are_inverted() -> None:
    weights = np.ones((15, 2), np.int8)
    weights[8:, 1] = 0
    stored = store_planes(weights, twos_complement(0, 1), 15, 8)
    assert stored.inverted.reshape(-1).tolist() == [1, 0]  # 8 of 15 ones are no more than the converter tells
    assert stored.lossless(8)
    assert not store_planes(weights, twos_complement(0, 1), 15, None).lossless(8)


def test_no_weights_at_all() -> None:
    assert planes_of(np.zeros((0, 3), np.int8)).coefficients == (1,)
