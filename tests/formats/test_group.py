"""The group tables T[m][code] by enumeration, and the rounding onto them against brute force."""

from fractions import Fraction

import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.formats.group import (
    group_levels,
    group_nearest,
    group_table,
    group_unit,
    is_exact,
    max_group_multiplier,
)

LUT = "lut4:81a3bccdd9e4f0fa000b162230405a7f"
EXACT = ["int2", "int3", "int4", "int4_narrow", "fixp3", "fixp4", "uint3"]
DECLARED = ["posit4", "float4_e2m1fn", "nf4", "pot4", "uint4", LUT]


@pytest.mark.parametrize("name", EXACT)
def test_exact_rows_are_products(name: str) -> None:
    fmt = resolve(name)
    image = fmt.image()
    assert image is not None
    assert is_exact(fmt)
    assert max_group_multiplier(fmt) == 15
    table = group_table(fmt)
    for m in range(16):
        for code in range(2**fmt.bits):
            product = m * int(image[code])
            assert -128 <= product <= 127
            assert int(table[m][code]) == product
    assert group_unit(fmt) == fmt.image_scale


@pytest.mark.parametrize("name", DECLARED)
def test_declared_rows_are_the_rounded_products(name: str) -> None:
    fmt = resolve(name)
    assert not is_exact(fmt)
    table, values = group_table(fmt), fmt.table()
    assert table.shape == (16, 16)
    for m in range(16):
        for code in range(16):
            value = Fraction(0) if np.isnan(values[code]) else Fraction(float(values[code]))
            expected = round(m * value * 127 / (15 * Fraction(fmt.max)))  # Python rounds half to even
            assert int(table[m][code]) == expected
    assert np.abs(table.astype(int)).max() == 127
    assert np.isclose(127 * group_unit(fmt), 15 * fmt.max)


def test_posit4_row_15() -> None:
    """127/16 times {0, 1, 2, 3, 4, 6, 8, 16}."""
    assert group_table(resolve("posit4"))[15][:9].tolist() == [0, 8, 16, 24, 32, 48, 64, 127, 0]


@pytest.mark.parametrize("name", [*EXACT, *DECLARED])
def test_rounding_onto_every_row(name: str) -> None:
    fmt = resolve(name)
    table, reserved = group_table(fmt).astype(np.float64), np.isnan(fmt.table())
    rng = np.random.default_rng(0)
    quarters = np.arange(-520, 521) / 4  # every level, every midpoint
    x = np.concatenate([quarters, rng.uniform(-130, 130, 500), [1e30, -1e30]]).astype(np.float32)
    nearest = group_nearest(fmt)
    for m in range(1, 16):
        codes = nearest.encode_block(x, np.full(x.shape, m, np.uint8))
        assert not reserved[codes].any()
        found = table[m][codes]
        assert np.array_equal(nearest.round_block(x, np.full(x.shape, m, np.uint8)), found)
        distance = np.abs(x.astype(np.float64)[:, None] - np.where(reserved, np.inf, table[m]))
        assert np.array_equal(np.abs(x - found), distance.min(axis=1))


def test_ties_on_exact_rows_go_to_the_even_code() -> None:
    fmt = resolve("int4")
    q = np.arange(-8, 7)
    for m in range(1, 16):
        middle = ((q + 0.5) * m).astype(np.float32)
        codes = group_nearest(fmt).encode_block(middle, np.full(middle.shape, m, np.uint8))
        assert (codes % 2 == 0).all()
        assert np.array_equal(codes, fmt.encode(np.rint(q + 0.5)))


@pytest.mark.parametrize("name", ["int8", "int5", "posit4es1", "float8_e4m3fn"])
def test_formats_without_a_group_table(name: str) -> None:
    with pytest.raises(FormatError, match="takes no integer group scales") as caught:
        group_table(resolve(name))
    assert caught.value.hint is not None
    assert "channel" in caught.value.hint


@pytest.mark.parametrize("name", [*EXACT, *DECLARED])
def test_levels_give_the_table_in_single_precision(name: str) -> None:
    fmt = resolve(name)
    levels = group_levels(fmt)
    assert levels.dtype == np.float32
    assert levels.shape == (17,)
    m = np.arange(16, dtype=np.float32)[:, None]
    products = np.multiply(m, levels[:16], dtype=np.float32)
    rows = np.rint(np.divide(products, levels[16], dtype=np.float32))
    table = np.zeros((16, 16), np.int64)
    table[:, : 2**fmt.bits] = group_table(fmt)
    np.testing.assert_array_equal(rows, table)


@pytest.mark.sweep
@pytest.mark.parametrize("largest", range(60, 128))
def test_levels_of_learned_tables_of_every_range_round_ties_as_declared(largest: int) -> None:
    """Each level of the range once, so that every tie there is occurs: m * v * 127 / (15 * largest) = k + 1/2."""
    for first in range(-largest, largest - 14, 15):
        codes = sorted({largest, *range(first, first + 15)})
        hexes = bytes(v & 255 for v in (codes + [largest] * 16)[:16]).hex()
        fmt = resolve(f"lut4:{hexes}")
        m = np.arange(16)
        for code, value in enumerate(codes[:16]):
            exact = [round(Fraction(int(k) * value * 127, int(15 * fmt.max * 1))) for k in m]
            levels = group_levels(fmt)
            found = np.rint(m.astype(np.float32) * levels[code] / levels[16])
            assert found.tolist() == exact
