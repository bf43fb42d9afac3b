"""How many copies of each layer's weights: the exact bottleneck, by binary search. [cim-machine 2, scheduling 3].

A layer with P positions of t cycles, held by `ceil(P t / T)` copies, takes no longer than T.  The smallest T for which
all copies fit is found on the finite set of times that a layer can have.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Load:
    """One layer for the search.

    Attributes:
        cycles: of all its positions on one copy.
        pages: of macros, for one copy.
        most: copies that can share its work.
    """

    cycles: int
    pages: int
    most: int


def copies(load: Load, bottleneck: float) -> int:
    """Copies that keep a layer within a time; more than `most` is not possible."""
    return max(1, ceil(load.cycles / bottleneck))


def replicate(loads: Sequence[Load], pages: int) -> tuple[int, ...] | None:
    """Copies of each layer for the least bottleneck; None where not even one copy of each fits.

    Args:
        loads: the layers that are resident together.
        pages: that there are.
    """
    if sum(load.pages for load in loads) > pages:
        return None
    times = sorted({ceil(load.cycles / c) for load in loads for c in range(1, load.most + 1)})

    def fits(t: int) -> bool:
        counts = [copies(load, t) for load in loads]
        if any(c > load.most for c, load in zip(counts, loads, strict=True)):
            return False
        return sum(c * load.pages for c, load in zip(counts, loads, strict=True)) <= pages

    found = bisect_left(times, True, key=fits)
    return tuple(copies(load, times[found]) for load in loads) if found < len(times) else (1,) * len(loads)
