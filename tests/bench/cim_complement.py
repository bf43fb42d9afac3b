"""What storing columns inverted saves: blocks of 63 and of 127 rows read by 6 bits."""

from dataclasses import dataclass

from lpcompile.backends.cim.build import DEFAULT_MACHINE
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.stored_weights import GroupBounds
from lpcompile.simulation import price_run
from tests.bench.bench_table import Bench, Table
from tests.bench.cim_exact import CALIBRATION
from tests.bench.cim_networks import machine_variant
from tests.zoo.cim_networks import Network, calls, with_formats

ENTRIES = ("resnet20_cifar10", "squeezenet_imagenet", "tiny_autoencoder_toycar")
FORMATS = ("int8", "fixp4")
ROWS = (63, 127)
SAMPLES = 2
HEADER = ("entry", "weights", "rows", "complement", "columns lossless as they are", "columns lossless", "inverted",
          "lossless tiles", "identical", "conversions", "uJ MAC only", "uJ all", "MAC only", "all")  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Column planes of a program, copies of a layer counted once."""

    all: int
    inverted: int
    lossy: int


def measure(bench: Bench) -> Table:
    """One row a network, weight format, block and choice; energies over those of the first row of each."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table(f"columns stored inverted, {DEFAULT_MACHINE} with other blocks, 6-bit converters", HEADER)
    for name in bench.names(ENTRIES, ENTRIES[-1:]):
        (feeds,) = calls(zoo, name, 1)
        for weights in FORMATS:
            first: tuple[float, ...] = ()
            for rows in ROWS:
                for complement in (False, True):
                    machine = machine_variant(DEFAULT_MACHINE, rows, complement)
                    network = with_formats(zoo, name, weights, "uint8", CALIBRATION, machine=machine)
                    found, energy = (
                        columns(network),
                        price_run(network.program, feeds, machine=machine).energy,
                    )
                    assert network.description.adc is not None
                    conversions = (
                        energy.components["converters"] * 1e3 / network.description.adc.conversion_fj
                    )
                    mine = (conversions, energy.totals.mac_only_pj * 1e-6, energy.totals.energy_pj * 1e-6)
                    first = first or mine
                    ratios = [a / b for a, b in zip(mine, first, strict=True)]
                    checked = network.made.report["verification"]
                    identical = not network.largest_difference(calls(zoo, name, SAMPLES))
                    plain = 1 - (found.inverted + found.lossy) / found.all
                    made.rows.append(
                        (name, weights, rows, "on" if complement else "off", round(plain, 4),
                         round(1 - found.lossy / found.all, 4), round(found.inverted / found.all, 4),
                         f"{checked['lossless_tiles']}/{checked['tiles']}", "yes" if identical else "no",
                         round(ratios[0], 3), f"{mine[1]:.4g}", f"{mine[2]:.4g}", round(ratios[1], 3),
                         round(ratios[2], 4))
                    )  # fmt: skip
    made.notes.append(
        "conversions and the last two columns: over those of the first row of the network and format"
    )
    made.notes.append("limit: with complement every column is lossless and the program identical")
    return made


def columns(network: Network) -> Columns:
    """Column planes, how many are stored inverted, and how many of lossy blocks may leave the converter's range."""
    program, machine = network.program, Capacities.of(network.description)
    bounds = GroupBounds(program, machine)
    facts = [bounds.facts(number) for number in {g.offset: i for i, g in enumerate(program.groups)}.values()]
    return Columns(sum(f.columns for f in facts), sum(f.inverted for f in facts), sum(f.lossy for f in facts))
