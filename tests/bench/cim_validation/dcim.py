"""`tsmc22-dcim`: its one figure, an input."""

from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_figures import figures
from tests.bench.cim_validation.point import INPUT, Point
from tests.bench.cim_validation.published import published

NAME = "tsmc22-dcim"


def points() -> list[Point]:
    """The efficiency that the machine was fitted to."""
    found = figures(MachineDescription.load(NAME), 4, 4).tops_per_w_mac_only
    note = "fitted; the split between data-dependent and other energy is assumed"
    return [Point(NAME, "TOPS/W, 4 by 4 bits, MAC only", found, published("dcim", "tops_per_w"), INPUT, note)]
