"""A simulation can be priced, by what it counted and by densities."""

import numpy as np
import pytest

from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_timing import MachineTiming
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.simulator import Simulator
from tests.backends.cim.build import Builder, op

INIT, SKIPZ = 1, 2


@pytest.mark.parametrize("flags", [INIT, INIT | SKIPZ])
def test_a_run_is_priced(flags: int) -> None:
    rng = np.random.default_rng(4)
    b = Builder()
    b.nodes = ["fc"]
    b.run[0].append(op("MARK", 0))
    x = b.feed("x", (20, 60), batch=True)
    acc = b.desc((20, 8), "i32")
    b.run[0].append(op("MVM", b.group(rng.integers(-8, 8, (60, 8)), block_rows=31), x, acc, flags=flags))
    b.fetch("y", acc, batch=True)
    machine = MachineDescription.load("reference")
    values = rng.integers(0, 256, (2, 20, 60)).astype(np.uint8)
    found = {}
    for mode in ("exact", "stat"):
        record = ActivityRecord(exact=mode == "exact")
        Simulator(b.program(), Capacities.of(machine), observer=record).run({"x": values})
        ends = [e.end_cycle for e in record.run if e.instruction.mnemonic == "MVM"]
        assert len(ends) == 2
        assert ends[0] < ends[1]
        found[mode] = price(machine, b.program(), record.run, mode, boot=record.boot)
    assert found["exact"].totals.macs == found["stat"].totals.macs == 2 * 20 * 60 * 8
    assert found["exact"].totals.latency_ns == found["stat"].totals.latency_ns or flags & SKIPZ
    again = ActivityRecord(exact=True)
    Simulator(b.program(), Capacities.of(machine), observer=again).run({"x": 0 * values})
    zeros = price(machine, b.program(), again.run, "exact")
    assert zeros.totals.energy_pj < found["exact"].totals.energy_pj


def test_the_boot_stands_apart() -> None:
    b = Builder()
    x = b.feed("x", (2, 60), batch=True)
    b.run[0].append(
        op("MVM", b.group(np.ones((60, 4), np.int8)), x, acc := b.desc((2, 4), "i32"), flags=INIT)
    )
    b.fetch("y", acc, batch=True)
    record = ActivityRecord(exact=True)
    machine = MachineDescription.load("reference")
    simulator = Simulator(b.program(), Capacities.of(machine), timing=MachineTiming(machine), observer=record)
    values = np.zeros((2, 2, 60), np.uint8)
    assert simulator.run({"x": values}).boot_cycles > 0
    assert {e.instruction.mnemonic for e in record.boot} == {"WPROG"}
    assert "WPROG" not in {e.instruction.mnemonic for e in record.run}
    starts = [e.start_cycle for e in record.run]
    assert starts[0] == 0
    once = price(machine, b.program(), record.run, "exact", 2, record.boot)
    assert once.totals.boot_pj > 0
    simulator.run({"x": values})  # a second batch goes on where the first ended, without a boot
    twice = price(machine, b.program(), record.run, "exact", 4, record.boot)
    assert twice.totals.energy_pj == pytest.approx(2 * once.totals.energy_pj, rel=1e-12)
    assert twice.totals.boot_pj == once.totals.boot_pj
