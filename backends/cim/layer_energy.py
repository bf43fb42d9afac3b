"""Energy of a layer before anything is lowered, for choosing formats: events of its shape, priced as those of a run.

Assumed, where only the whole network would tell: weights stay on the machine unless told otherwise (where they do not,
loading them for every call outweighs all else); a layer is cut into `STRIPS` strips on as
many cores, so windows overlap that often and leakage counts a `STRIPS`-th of its time; its cores are the nearer half of
the mesh; input and output lie in the global buffer; input and weight planes have the machine's own densities; every
format uses its whole range. Left out, because no format changes them: DRAM at the edges, instructions, elementwise work
after the layer. [cim-machine 3]
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lpcompile.backends.cim.events import PRICES, Event
from lpcompile.backends.cim.geometry import Footprint, Geometry
from lpcompile.backends.cim.latency import step_cycles
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.planes import cells_of, twos_complement
from lpcompile.backends.cim.program import PlaneSet
from lpcompile.errors import TargetError
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import group_table
from lpcompile.target import LayerShape

STRIPS = 4  # as many as lowering makes at least


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """What a layer takes.

    Attributes:
        events: of one image or call.
        leakage_pj: over its share of the time.
        energy_pj: all of it.
    """

    events: Counter[Event]
    leakage_pj: float
    energy_pj: float


def layer_energy(
    machine: MachineDescription,
    layer: LayerShape,
    fmt: NumberFormat,
    activation_bits: int,
    *,
    group_size: int = 0,
    resident: bool = True,
) -> LayerEnergy:
    """Events and energy of a layer.

    Args:
        machine: it runs on.
        layer: Conv, Gemm or MatMul; of a Conv, one image.
        fmt: of its weights.
        activation_bits: input planes.
        group_size: inputs that share an integer group scale; 0: none.
        resident: whether weights stay; else they are written for every call.

    Raises:
        TargetError: the format has no int8 image, or sizes of the layer are symbolic.
    """
    if fmt.image() is None:
        raise TargetError(f"{fmt.name} has no int8 image, which the machine's bit planes hold")
    if layer.rows is None or layer.input_elements is None:
        raise TargetError(
            "the energy of a layer with symbolic sizes is not known", hint="give them with --input-shape"
        )
    planes, g = planes_of_format(fmt, group_size), Geometry.of(machine)
    if layer.group == 1:
        on_arrays = _matrix(machine, g, layer.rows, layer.inputs, layer.outputs, planes, activation_bits)
        if not resident:
            on_arrays[0].update(_loading(machine, g, layer.inputs, layer.outputs, planes))
        return _priced(machine, _with_moves(machine, g, layer, planes, on_arrays[0]), on_arrays[1])
    each = min(layer.group, max(1, g.block_rows // layer.inputs))  # groups that stand in one matrix
    matrix = _matrix(
        machine,
        g,
        layer.rows,
        layer.inputs * each,
        layer.outputs // layer.group * each,
        planes,
        activation_bits,
    )
    if not resident:
        matrix[0].update(
            _loading(machine, g, layer.inputs * each, layer.outputs // layer.group * each, planes)
        )
    times = layer.group / each
    arrays = Counter({event: n * times for event, n in matrix[0].items()})
    options = [(arrays, matrix[1] * times)]
    if layer.inputs == math.prod(layer.kernel):  # one input channel a group
        macs = layer.rows * layer.inputs * layer.outputs
        hp = Counter({Event.HP_MAC8: float(macs)})
        options.append((hp, macs / machine.hp_unit.int8_macs_per_cycle))
    found = [_priced(machine, _with_moves(machine, g, layer, planes, e), cycles) for e, cycles in options]
    return min(found, key=lambda one: one.energy_pj - one.leakage_pj)  # as lowering decides


def planes_of_format(fmt: NumberFormat, group_size: int = 0) -> PlaneSet:
    """Planes that hold every int8 weight of a format; group scales widen its image to that of the group table."""
    table = group_table(fmt) if group_size else fmt.image()
    assert table is not None
    return twos_complement(int(table.min()), int(table.max()))


def _matrix(
    machine: MachineDescription,
    g: Geometry,
    positions: int,
    rows: int,
    outputs: int,
    planes: PlaneSet,
    activation_bits: int,
) -> tuple[Counter[Event], float]:
    """Events of a product with (rows, outputs) weights at every position, and its cycles."""
    if g.outputs_per_macro(planes) < 1:
        raise TargetError("the planes of one weight do not fit the columns of a macro")
    foot, blocks = Footprint.of(g, rows, outputs, planes), math.ceil(rows / g.block_rows)
    cells = cells_of(planes, g.bits_per_cell)
    steps = positions * math.ceil(activation_bits / machine.macro.input_bits_per_cycle)
    driven = positions * activation_bits * machine.energy.input_density * rows
    columns = steps * blocks * outputs * cells
    inverted = _inverted_share(g, min(rows, g.block_rows), machine.energy.weight_density)
    flagged = 1 - (1 - inverted) ** len(planes.coefficients)  # outputs with an inverted column
    counts = Counter(
        {
            Event.DRIVEN_ROW: driven * foot.across,
            Event.CROSSED_COLUMN: driven * foot.across * machine.macro.columns,
            Event.HIT: driven * outputs * len(planes.coefficients) * machine.energy.weight_density,
            Event.COLUMN_READ: float(columns),
            Event.CONVERSION: float(columns) if machine.adc is not None else 0.0,
            Event.SHIFT_ADD: float(columns),
            Event.COUNTED_ROW: float(steps * rows) if flagged * outputs >= 0.5 else 0.0,
            Event.CORRECTION: positions * blocks * outputs * flagged,
            Event.ACCUMULATION: float(positions * blocks * outputs),
        }
    )
    width = min(math.ceil(outputs / foot.across) * cells, machine.macro.columns)
    return counts, float(steps * foot.pages * step_cycles(machine, width))


def _loading(
    machine: MachineDescription, g: Geometry, rows: int, outputs: int, planes: PlaneSet
) -> Counter[Event]:
    """Events of writing (rows, outputs) weights, with a flag for every column of a block."""
    count = len(planes.coefficients)
    bits = count * outputs * (rows + math.ceil(rows / g.block_rows))
    return Counter(
        {
            Event.CELL_WRITE: float(count * outputs * rows),
            Event.DRAM_BIT: float(bits),
            Event.BYTE_HOP: bits / 8 * _mean_hops(g),
        }
    )


def _mean_hops(g: Geometry) -> float:
    near = sorted(g.hops)[: max(1, len(g.hops) // 2)]
    return sum(near) / len(near)


def _inverted_share(g: Geometry, rows: int, density: float) -> float:
    """Share of columns that are stored inverted: more ones than a converter tells, ones being independent."""
    if g.most_ones is None or rows <= g.most_ones:
        return 0.0
    k = np.arange(max(g.most_ones, rows // 2) + 1, rows + 1)
    log = [math.lgamma(rows + 1) - math.lgamma(i + 1) - math.lgamma(rows - i + 1) for i in k]
    chance = np.exp(np.asarray(log) + k * math.log(density) + (rows - k) * math.log1p(-density))
    return float(chance.sum())


def _with_moves(
    machine: MachineDescription, g: Geometry, layer: LayerShape, planes: PlaneSet, counts: Counter[Event]
) -> Counter[Event]:
    """The events with those of loading inputs, keeping sums, requantising and storing."""
    assert layer.rows is not None
    assert layer.input_elements is not None
    sums = layer.rows * layer.outputs
    pieces = 1
    if layer.group == 1:  # outputs on several cores: each loads the input
        pieces = math.ceil(Footprint.of(g, layer.inputs, layer.outputs, planes).macros / g.macros)
    loaded = pieces * layer.input_elements * _overlap(layer)
    read = min(loaded, float(pieces * layer.rows * layer.inputs * layer.group))
    moves = Counter(
        {
            Event.GLOBAL_READ: loaded,
            Event.GLOBAL_WRITE: float(sums),
            Event.LOCAL_WRITE: loaded + 4.0 * sums + sums,
            Event.LOCAL_READ: read + 4.0 * sums + sums,
            Event.BYTE_HOP: (loaded + sums) * _mean_hops(g),
            Event.REQUANTIZE: float(sums),
        }
    )
    return counts + moves


def _overlap(layer: LayerShape) -> float:
    """Input elements that strips load, for each that there is: rows of the kernel beyond the first are shared."""
    if not layer.kernel or layer.kernel[0] == 1 or not layer.rows:
        return 1.0
    height = max(1.0, layer.rows ** (1 / len(layer.kernel)))  # positions are taken as a square
    strips = min(STRIPS, math.ceil(height))
    return float(1 + (strips - 1) * (layer.kernel[0] - 1) / max(height, layer.kernel[0]))


def _priced(machine: MachineDescription, events: Counter[Event], cycles: float) -> LayerEnergy:
    seconds_ns = cycles / machine.chip.clock_mhz * 1e3 / STRIPS
    leakage = machine.energy.leakage_mw * seconds_ns  # mW * ns = pJ
    energy = math.fsum(n * PRICES[event].energy_pj(machine) for event, n in events.items() if n)
    return LayerEnergy(events, leakage, energy + leakage)
