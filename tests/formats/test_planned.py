"""Formats as plans name them."""

import numpy as np

from lpcompile.formats.base import resolve
from lpcompile.formats.codebook import LearnedTable
from lpcompile.formats.nearest import Nearest
from lpcompile.formats.planned import format_of


def test_a_name_is_its_format_and_lut4_some_learned_table() -> None:
    assert format_of("nf4") is resolve("nf4")
    learned = format_of("lut4")
    assert isinstance(learned, LearnedTable)
    assert learned.bits == 4


def test_a_learned_table_travels_in_bytes() -> None:
    table = resolve("lut4:" + bytes(i & 255 for i in range(-80, 80, 10)).hex())
    assert isinstance(table, LearnedTable)
    assert table.codebook_bits == 16 * 8


def test_no_level_is_minus_zero() -> None:
    levels = Nearest(np.array([-1.0, -0.0, 1.0, 2.0])).levels
    assert not np.signbit(levels[levels == 0]).any()
