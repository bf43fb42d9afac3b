"""Energy reports: how long they take, whether they add up, and how far densities are from counts."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.build import DEFAULT_MACHINE
from lpcompile.backends.cim.densities import DensityTable
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.energy_report import EnergyReport
from lpcompile.simulation import price_run
from tests.bench.bench_table import Bench, Table
from tests.bench.cim_networks import SEEDED, calls, seeded
from tests.zoo.cim_networks import Network, from_zoo
from tests.zoo.entries import Zoo

SEEDED_NAME = "VGG-8"
ENTRIES = ("resnet20_cifar10", "squeezenet_imagenet", "tiny_autoencoder_toycar")
SAMPLES = 4
LIMIT_SECONDS, LIMIT_SUM, LIMIT_STAT = 3.0, 1e-9, 0.05
DATA_DEPENDENT = ("wordlines", "cells")
HEADER = ("network", "report, s", "price, s", "limit", "sums off by", "limit", "stat / exact", "on data alone",
          "limit", "uJ", "TOPS/W system", "with side paths", "MAC only", "digital int8 uJ", "TOPS/W",
          "assumed")  # fmt: skip


@dataclass(frozen=True)
class Priced:
    """A network priced by counts of held-back samples, and by densities of calibration samples."""

    exact: EnergyReport
    stat: EnergyReport

    @property
    def off(self) -> float:
        """Relative difference of the totals."""
        return self.stat.totals.energy_pj / self.exact.totals.energy_pj - 1

    @property
    def off_on_data(self) -> float:
        """The same of those components alone that depend on data."""
        found = [sum(r.components.get(c, 0.0) for c in DATA_DEPENDENT) for r in (self.stat, self.exact)]
        return found[0] / found[1] - 1


def measure(bench: Bench) -> Table:
    """One row a network, energy a sample."""
    made = Table("energy of int8 networks, a sample", HEADER)
    for network in _networks(bench):
        seconds, alone = report_seconds(bench.zoo, network)
        priced = both_modes(bench.zoo, network)
        exact, samples = priced.exact, priced.exact.conventions["batch"]
        digital, tops = network.made.report["energy"]["digital_int8"], exact.tops_per_w()
        made.rows.append(
            (network.name, round(seconds, 2), round(alone, 2), LIMIT_SECONDS if network.name in SEEDED else None,
             f"{imbalance(exact):.0e}", f"{LIMIT_SUM:.0e}",
             f"{100 * priced.off:+.3f} %", f"{100 * priced.off_on_data:+.2f} %", f"{100 * LIMIT_STAT:g} %",
             round(exact.totals.energy_pj * 1e-6 / samples, 3),
             *(round(tops[k], 2) for k in ("system", "with_side_paths", "mac_only")),
             round(digital["energy_pj"] * 1e-6, 3), round(digital["tops_per_w"], 2),
             f"{100 * exact.assumed_share:.0f} %")
        )  # fmt: skip
    made.notes += [
        f"machine {DEFAULT_MACHINE}; report: one sample simulated with counting, priced by counts and by densities",
        f"stat: densities of {SAMPLES} calibration samples, one a layer; exact: counts of {SAMPLES} held-back samples; "
        f"on data alone: {' and '.join(DATA_DEPENDENT)}",
        "system: with buffers, interconnect, DRAM and leakage; digital int8: array, registers, SRAM and DRAM, weights "
        "in its SRAM where the machine keeps them and they fit, else from DRAM",
    ]
    return made


def report_seconds(zoo: Zoo | None, network: Network) -> tuple[float, float]:
    """Seconds of one sample's whole report, and of `price` by counts alone."""
    (feeds,) = calls(zoo, network.name, 1)
    start = time.perf_counter()
    record = ActivityRecord(exact=True)
    network.simulator(observer=record).run(feeds, network.host)
    begun = time.perf_counter()
    price(network.description, network.program, record.run, "exact", boot=record.boot)
    priced = time.perf_counter()
    densities = DensityTable.of(network.program, record.run)
    price(
        network.description, network.program, densities.applied(network.program, record.run), "stat"
    ).to_json()
    return time.perf_counter() - start, priced - begun


def both_modes(zoo: Zoo | None, network: Network) -> Priced:
    """Counts of held-back samples, densities of calibration samples."""
    (known,), (held_back,) = (calls(zoo, network.name, SAMPLES, split) for split in ("calib", "eval"))
    densities = price_run(network.program, known, machine=network.machine).densities
    exact = price_run(network.program, held_back, machine=network.machine).energy
    stat = price_run(network.program, known, machine=network.machine, densities=densities).energy
    return Priced(exact, stat)


def imbalance(report: EnergyReport) -> float:
    """The largest relative difference between the total and the sums over components, layers and layers' parts."""
    total = report.totals.energy_pj
    sums = (
        math.fsum(report.components.values()),
        math.fsum(map(report.layer_pj, report.by_layer)),
        math.fsum(e for parts in report.by_layer.values() for e in parts.values()),
    )
    return max(abs(s - total) for s in sums) / total


def _networks(bench: Bench) -> Iterator[Network]:
    if not bench.quick:
        yield seeded(SEEDED_NAME, recipe="int8")
    if bench.zoo is not None:
        for name in bench.names(ENTRIES, ENTRIES[-1:]):
            yield from_zoo(bench.zoo, name, recipe="int8")
