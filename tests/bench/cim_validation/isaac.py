"""`isaac-ce`: components of a crossbar and read cycle, the MAC they make, throughput. [shafiee2016]."""

from lpcompile.backends.cim.events import Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_figures import figures, step_parts_fj
from tests.bench.cim_validation.point import ACCOUNT, PREDICTED, Point
from tests.bench.cim_validation.published import published

NAME = "isaac-ce"
_PARTS = {
    "converters": (Event.CONVERSION, "converter_pj"),
    "input drivers": (Event.DRIVEN_ROW, "driver_pj"),
    "crossbar": (Event.COLUMN_READ, "crossbar_pj"),
    "shift-add": (Event.SHIFT_ADD, "shift_add_pj"),
}


def points() -> list[Point]:
    """Components, their sum, a 16-bit MAC, and throughput per area."""
    machine = MachineDescription.load(NAME)
    parts, whole = step_parts_fj(machine), figures(machine, 16, 16)
    found = [
        Point(
            NAME,
            f"{name}, pJ a crossbar and cycle",
            parts[event] * 1e-3,
            published("isaac", key),
            ACCOUNT,
            "component constants are the machine's",
        )
        for name, (event, key) in _PARTS.items()
    ]
    return [
        *found,
        Point(
            NAME,
            "all four, pJ a crossbar and cycle",
            sum(parts.values()) * 1e-3,
            published("isaac", "step_pj"),
            ACCOUNT,
            "the same",
        ),
        Point(
            NAME,
            "16-bit MAC in a crossbar, pJ",
            whole.mac_fj * 1e-3,
            published("isaac", "mac_pj"),
            ACCOUNT,
            "16 cycles, 8 cells a weight",
        ),
        Point(
            NAME,
            "GOPS/mm2",
            whole.peak_tops * 1e3 / published("isaac", "area_mm2"),
            published("isaac", "gops_per_mm2"),
            PREDICTED,
            "throughput by the cycle model; the area is the published one",
        ),
        Point(
            NAME,
            "16-bit MAC, whole chip, pJ",
            whole.mac_fj * 1e-3,
            published("isaac", "chip_mac_pj"),
            PREDICTED,
            "short by eDRAM, buses, routers, registers and links, which full-use powers give and events do not",
        ),
    ]
