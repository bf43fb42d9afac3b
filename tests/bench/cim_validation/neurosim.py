"""`neurosim-22-sram`: VGG-8 against a run of the tool.

Of the run's parts three were turned into constants by dividing them by the conversions of this very network: converter,
accumulation, array.  For these the rows check the count and no more.  Interconnect and buffers were not fitted: every
activation crosses the mesh once on its way in (as on a bus, to the mean distance) and once out, and is written and
read once in the global and once in a local buffer on its way in.
"""

from collections import Counter

from lpcompile.backends.cim.events import PRICES, Event
from lpcompile.backends.cim.latency import step_cycles
from lpcompile.backends.cim.machine import MachineDescription
from tests.bench.cim_validation.point import HINDSIGHT, INPUT, MIXED, PREDICTED, Point
from tests.bench.cim_validation.published import published
from tests.bench.cim_validation.vgg8 import vgg8

NAME = "neurosim-22-sram"
BITS = 8
_FITTED = "fitted: the run's part over its conversions"


def events(machine: MachineDescription) -> Counter[Event]:
    """Events of one image."""
    macro, found = machine.macro, Counter[Event]()
    cells = -(-BITS // macro.bits_per_cell)
    hops = sum(machine.hops(core) for core in range(machine.core_count)) / machine.core_count
    for layer in vgg8():
        reads = layer.positions * BITS * -(-layer.rows // macro.rows_active) * layer.outputs * cells
        moved = layer.input_bytes + layer.output_bytes
        found[Event.CONVERSION] += reads
        found[Event.COLUMN_READ] += reads
        found[Event.SHIFT_ADD] += reads
        found[Event.GLOBAL_READ] += layer.input_bytes
        found[Event.GLOBAL_WRITE] += layer.output_bytes
        found[Event.LOCAL_WRITE] += layer.input_bytes
        found[Event.LOCAL_READ] += layer.input_bytes
        found[Event.BYTE_HOP] += round(moved * hops)
    return found


def parts_uj() -> dict[str, float]:
    """Energy of one image by the tool's parts, in uJ."""
    machine = MachineDescription.load(NAME)
    priced = {e: n * PRICES[e].energy_pj(machine) * 1e-6 for e, n in events(machine).items()}
    buffers = (Event.GLOBAL_READ, Event.GLOBAL_WRITE, Event.LOCAL_READ, Event.LOCAL_WRITE)
    return {
        "converter": priced[Event.CONVERSION],
        "accumulation": priced[Event.SHIFT_ADD],
        "array": priced[Event.COLUMN_READ],
        "interconnect": priced[Event.BYTE_HOP],
        "buffers": sum(priced[e] for e in buffers),
    }


def router_interconnect_uj() -> float:
    """The interconnect with the router of ISAAC at every hop instead of a bus."""
    router = MachineDescription.load("isaac-ce")
    count = events(MachineDescription.load(NAME))[Event.BYTE_HOP]
    return count * PRICES[Event.BYTE_HOP].energy_pj(router) * 1e-6


def slowest_layer_us(machine: MachineDescription) -> float:
    """Time between two images when layers work on different ones: that of the layer with the most positions."""
    step = step_cycles(machine, machine.macro.columns)
    return max(layer.positions for layer in vgg8()) * BITS * step / machine.chip.clock_mhz


def points() -> list[Point]:
    """The network, the parts of the run, the total; and the accumulation of another run with these constants."""
    found, run = parts_uj(), "neurosim_sram"
    machine = MachineDescription.load(NAME)
    array = published(run, "other_uj") - published(run, "interconnect_uj") - published(run, "buffers_uj")
    other = found["array"] + found["interconnect"] + found["buffers"]
    return [
        Point(
            NAME,
            "VGG-8, millions of MACs",
            sum(layer.macs for layer in vgg8()) * 1e-6,
            published(run, "macs_millions"),
            PREDICTED,
            "layer list",
        ),
        Point(NAME, "converters, uJ", found["converter"], published(run, "converter_uj"), INPUT, _FITTED),
        Point(
            NAME, "accumulation, uJ", found["accumulation"], published(run, "accumulation_uj"), INPUT, _FITTED
        ),
        Point(NAME, "array and drivers, uJ", found["array"], array, INPUT, _FITTED),
        Point(
            NAME,
            "interconnect, uJ",
            found["interconnect"],
            published(run, "interconnect_uj"),
            HINDSIGHT,
            "tile bus of ISAAC, by node and supply squared, since the tool has a bus; the value was known",
        ),
        Point(
            NAME,
            "interconnect with routers, uJ",
            router_interconnect_uj(),
            published(run, "interconnect_uj"),
            PREDICTED,
            "router of ISAAC at 32 nm instead: what the choice above is worth",
        ),
        Point(
            NAME,
            "buffers, uJ",
            found["buffers"],
            published(run, "buffers_uj"),
            PREDICTED,
            "SRAM of Horowitz's table by size, node and supply; activations only",
        ),
        Point(
            NAME,
            "other than converters and accumulation, uJ",
            other,
            published(run, "other_uj"),
            MIXED,
            "array fitted, interconnect and buffers predicted",
        ),
        Point(
            NAME,
            "total, uJ",
            sum(found.values()),
            published(run, "total_uj"),
            MIXED,
            "nine tenths of it are the fitted parts",
        ),
        Point(
            NAME,
            "pipelined, us an image",
            slowest_layer_us(machine),
            published(run, "time_us"),
            PREDICTED,
            "slowest layer by the cycle model; 1 ns of settling and of conversion are assumed",
        ),
        Point(
            NAME,
            "accumulation with 2-bit cells, uJ",
            found["accumulation"] / 2,
            published("neurosim_rram", "accumulation_uj"),
            PREDICTED,
            f"another run, held out: half the columns at the same {machine.accumulator.shift_add_fj:g} fJ",
        ),
    ]
