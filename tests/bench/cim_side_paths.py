"""What rank-8 side paths at 8 bits on the hp unit leave of the headline."""

from tests.bench.bench_table import Bench, Table
from tests.bench.cim_validation.npp import NAME, RANK, side_path_rows


def measure(bench: Bench) -> Table:
    """One row a width of layer."""
    header = (
        "width",
        "side MACs / MACs",
        "TOPS/W MAC only",
        "with side paths",
        "side MACs as work",
        "side path's share",
    )
    made = Table(
        f"{NAME}: layers of equal inputs and outputs, 4 by 4 bits, side paths of rank {RANK}", header
    )
    for width, rho, tops, everything, share in side_path_rows():
        alone = tops / (1 - share)
        made.rows.append(
            (
                width,
                round(rho, 4),
                round(alone, 1),
                round(tops, 1),
                round(everything, 1),
                f"{100 * share:.1f} %",
            )
        )
    made.notes.append(
        "the MAC-only figure is an input of the machine, from an abstract; no chip was measured"
    )
    return made
