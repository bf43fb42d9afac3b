"""A simulation can be priced, by what it counted and by densities."""

import numpy as np
import pytest

from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.machine import MachineDescription
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
        ends = [e.end_cycle for e in record.instructions if e.instruction.mnemonic == "MVM"]
        assert len(ends) == 2
        assert ends[0] < ends[1]
        found[mode] = price(machine, b.program(), record.instructions, mode)
    assert found["exact"].totals.macs == found["stat"].totals.macs == 2 * 20 * 60 * 8
    assert found["exact"].totals.latency_ns == found["stat"].totals.latency_ns or flags & SKIPZ
    again = ActivityRecord(exact=True)
    Simulator(b.program(), Capacities.of(machine), observer=again).run({"x": 0 * values})
    zeros = price(machine, b.program(), again.instructions, "exact")
    assert zeros.totals.energy_pj < found["exact"].totals.energy_pj
