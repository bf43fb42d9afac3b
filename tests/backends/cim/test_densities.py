"""Densities of one run price another."""

import numpy as np
import pytest

from lpcompile.backends.cim.activity import Executed
from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.densities import DensityTable
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.simulator import Simulator
from tests.backends.cim.build import Builder, op
from tests.support import Array

MACHINE = MachineDescription.load("reference")
POSITIONS, ROWS = 20, 60


def two_layers() -> Program:
    rng = np.random.default_rng(4)
    b = Builder()
    b.nodes = ["a", "b"]
    for node, name in enumerate(("x", "y")):
        x = b.feed(name, (POSITIONS, ROWS), batch=True)
        acc = b.desc((POSITIONS, 8), "i32")
        group = b.group(rng.integers(-8, 8, (ROWS, 8)), block_rows=31)
        b.run[0] += [op("MARK", node), op("MVM", group, x, acc, flags=1)]
        b.fetch(f"{name}_out", acc, batch=True)
    return b.program()


def recorded(program: Program, x: Array, y: Array) -> list[Executed]:
    record = ActivityRecord(exact=True)
    Simulator(program, Capacities.of(MACHINE), observer=record).run({"x": x, "y": y})
    return record.run


def test_densities_are_shares_of_ones() -> None:
    rng = np.random.default_rng(5)
    x, y = (rng.integers(0, most, (3, POSITIONS, ROWS)).astype(np.uint8) for most in (256, 16))
    program = two_layers()
    found = DensityTable.of(program, recorded(program, x, y)).by_node
    for node, array in (("a", x), ("b", y)):
        assert found[node] == pytest.approx(np.unpackbits(array).mean(), rel=1e-12)


def test_stat_with_densities_of_other_samples_is_close_to_exact() -> None:
    rng = np.random.default_rng(6)
    known, held_back = (rng.integers(0, 256, (2, 2, POSITIONS, ROWS)).astype(np.uint8) for _ in range(2))
    program = two_layers()
    counted = recorded(program, *held_back)
    densities = DensityTable.of(program, recorded(program, *known))
    exact = price(MACHINE, program, counted, "exact").totals
    stat = price(MACHINE, program, densities.applied(program, counted), "stat").totals
    assert stat.energy_pj != exact.energy_pj
    assert stat.mac_only_pj == pytest.approx(exact.mac_only_pj, rel=0.05)


def test_a_node_without_density_has_that_of_the_machine() -> None:
    program = two_layers()
    ones = np.full((1, POSITIONS, ROWS), 255, np.uint8)
    counted = recorded(program, ones, ones)
    assert DensityTable.of(program, counted).by_node == {"a": 1.0, "b": 1.0}
    given = DensityTable({"a": 1.0}).applied(program, counted)
    densities = {e.node: e.densities for e in given if e.instruction.mnemonic == "MVM"}
    assert densities == {"a": (1.0,) * 8, "b": None}
    assert all(e.on is None for e in given)
    assert not DensityTable.of(program, given).by_node
