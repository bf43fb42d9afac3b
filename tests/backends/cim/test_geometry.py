"""Numbers of a machine that layers are cut by, against counts by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lpcompile.backends.cim.geometry import Footprint, Geometry
from lpcompile.backends.cim.machine import MachineDescription, machine_names, machine_text
from lpcompile.backends.cim.planes import store_planes, twos_complement
from tests.backends.cim.random_machines import with_values

REFERENCE = Geometry.of(MachineDescription.load("reference"))
INT4 = twos_complement(-8, 7)


def machine(**values: object) -> Geometry:
    return Geometry.of(MachineDescription.from_toml(with_values(machine_text("reference"), **values)))


@pytest.mark.parametrize("name", machine_names())
def test_a_machine_holds_what_its_description_says(name: str) -> None:
    description = MachineDescription.load(name)
    g = Geometry.of(description)
    assert (g.cores, g.macros) == (description.core_count, description.macros_per_core)
    assert g.row_pages == description.row_pages
    assert g.row_pages * description.macro.rows_active <= description.macro.rows
    assert len(g.hops) == g.cores
    assert g.hops[0] == 0


def test_blocks_of_several_bits_a_cell_are_shorter_and_still_take_a_page_each() -> None:
    g = machine(macro__bits_per_cell=2, macro__rows_active=31)
    assert g.block_rows == 31 // 3  # 2 * 15 + 1 counts in steps of a cell that holds 3
    assert g.row_pages == 1
    assert Footprint.of(g, 32, 1, INT4) == Footprint(1, 4, 1)


def test_blocks_without_complement_or_converter() -> None:
    assert machine(macro__complement=False, macro__rows_active=15).most_ones is None
    assert machine().most_ones == 15
    digital = Geometry.of(MachineDescription.load("tsmc22-dcim"))
    assert (digital.adc_max, digital.most_ones, digital.block_rows) == (None, None, digital.rows_active)


def test_lossless_is_what_the_converter_does() -> None:
    weights = np.full((20, 1), 1, np.int8)
    short, long = (store_planes(weights[:n], twos_complement(0, 1), n, None) for n in (15, 16))
    clips, scales = REFERENCE, replace(REFERENCE, scales=True)
    assert (clips.lossless(short), clips.lossless(long)) == (True, False)
    assert (scales.lossless(short), scales.lossless(long)) == (True, False)
    sparse = store_planes(np.eye(16, 1, dtype=np.int8), twos_complement(0, 1), 16, None)
    assert clips.lossless(sparse)
    assert not scales.lossless(sparse)  # its steps are wider than one count
    assert replace(REFERENCE, adc_max=None).lossless(long)


def test_spread_steps_are_exact_block_by_block() -> None:
    scales = replace(REFERENCE, scales=True)
    weights = np.zeros((40, 2), np.int8)
    assert scales.lossless(store_planes(weights, twos_complement(0, 1), 32, None))  # nothing to round
    weights[33, 1] = 1  # in a block of 8 rows
    assert scales.lossless(store_planes(weights, twos_complement(0, 1), 32, None))
    weights[3, 0] = 1
    assert not scales.lossless(store_planes(weights, twos_complement(0, 1), 32, None))
    assert replace(scales, levels=3).block_rows == 5


def test_a_footprint_holds_every_block_and_wastes_no_macro() -> None:
    for rows, outputs, pages in itertools.product((1, 15, 16, 31, 100), (1, 8, 9, 30), (1, 2, 3)):
        g = replace(REFERENCE, row_pages=pages)
        found = Footprint.of(g, rows, outputs, INT4)
        blocks = -(-rows // g.block_rows)
        assert found.down * found.pages >= blocks
        assert (found.down - 1) * pages < blocks
        assert found.pages <= pages
        assert found.across == -(-outputs // (g.columns // 4))
        assert found.macros == found.across * found.down
