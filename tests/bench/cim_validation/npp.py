"""`npp-bitplane-sram`: its one figure, and what the same constants say of two other chips of its group.

The machine was fitted to 464 TOPS/W, so that row proves nothing.  The other two are predictions.  For N rows a column
read, B pairs of bit planes a MAC, and a converter of b bits

    E_MAC = B * (E_cell + E_wordline + (E_conversion * c(b) / c(6) + E_shift-add) / N),   c(b) = k5*b + k6*4^b

with c(b) the converter rule of [mei2021], k5 = 100 fF and k6 = 0.001 fF.  Supplies are equal or unknown: not scaled.
"""

from lpcompile.backends.cim.events import Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_figures import figures, step_parts_fj
from tests.bench.cim_validation.point import INPUT, PREDICTED, Point
from tests.bench.cim_validation.published import published

NAME = "npp-bitplane-sram"
WIDTHS = (64, 128, 256, 512, 1024)
RANK = 8
_K5_FF, _K6_FF = 100.0, 0.001


def points() -> list[Point]:
    """The three figures of the group."""
    machine = MachineDescription.load(NAME)
    own = figures(machine, 4, 4).tops_per_w_mac_only
    mf, transform = published("npp", "mf_net_tops_per_w"), published("npp", "transform_tops_per_w")
    return [
        Point(
            NAME,
            "TOPS/W, 4 by 4 bits, MAC only",
            own,
            published("npp", "tops_per_w"),
            INPUT,
            "fitted: four assumed parts sum to 4.31 fJ a MAC; width and operations a MAC are assumed",
        ),
        Point(
            NAME,
            "TOPS/W, 8 by 8 bits, 31 rows, 5 bits",
            tops_per_w(machine, pairs=64, rows=31, bits=5),
            mf,
            PREDICTED,
            "all 64 plane pairs; 31 rows is the most that 5 bits read without loss",
        ),
        Point(
            NAME,
            "the same with 16 plane pairs",
            tops_per_w(machine, pairs=16, rows=31, bits=5),
            mf,
            PREDICTED,
            "the paper's operator multiplies signs by magnitudes: 2 x 8 plane pairs instead of 64",
        ),
        Point(
            NAME,
            "TOPS/W, 8 by 1 bits, 16 rows, comparator",
            tops_per_w(machine, pairs=8, rows=16, bits=1),
            transform,
            PREDICTED,
            "a comparator as a 1-bit converter of the same rule",
        ),
    ]


def mac_fj(machine: MachineDescription, pairs: int, rows: int, bits: int) -> float:
    """Energy of a MAC of so many plane pairs, with so many rows a column read and a converter of so many bits."""
    parts, adc = step_parts_fj(machine), machine.adc
    if adc is None:
        raise ValueError("the machine has no converters")
    cells = machine.macro.rows_active * machine.macro.columns
    in_array = parts[Event.HIT] + parts[Event.CROSSED_COLUMN]
    conversion = adc.conversion_fj * _converter_ff(bits) / _converter_ff(adc.bits)
    return pairs * (in_array / cells + (conversion + machine.accumulator.shift_add_fj) / rows)


def tops_per_w(machine: MachineDescription, pairs: int, rows: int, bits: int) -> float:
    """Operations per joule, in 1e12."""
    return machine.energy.ops_per_mac * 1e3 / mac_fj(machine, pairs, rows, bits)


def side_path_rows() -> list[tuple[int, float, float, float, float]]:
    """(width, side MACs / main MACs, TOPS/W, side MACs counted as work, side path's share of energy), rank 8.

    A layer of `width` inputs and outputs at 4 by 4 bits, factors at 8 bits on the hp unit.
    """
    machine = MachineDescription.load(NAME)
    main, hp, ops = figures(machine, 4, 4).mac_fj, machine.hp_unit.int8_mac_fj, machine.energy.ops_per_mac
    rows = []
    for width in WIDTHS:
        rho = RANK * (width + width) / (width * width)
        energy = main + rho * hp
        rows.append((width, rho, ops * 1e3 / energy, ops * 1e3 * (1 + rho) / energy, rho * hp / energy))
    return rows


def _converter_ff(bits: int) -> float:
    return _K5_FF * bits + _K6_FF * 4.0**bits
