"""Free pages of macros: layers of few rows share macros, each on pages of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.backends.cim.geometry import Footprint, Geometry


@dataclass(frozen=True, slots=True)
class Slot:
    """Pages page0 ... of the macros first_macro ... of a core."""

    core: int
    first_macro: int
    page0: int


class Slots:
    """What is still free of the macros of all cores; pages of a macro are given out in order."""

    def __init__(self, g: Geometry) -> None:
        self.pages = g.row_pages
        self._used = [[0] * g.macros for _ in range(g.cores)]

    def find(self, core: int, f: Footprint) -> Slot | None:
        """Where a footprint fits a core and leaves the fewest pages unreachable; None where it does not."""
        used = self._used[core]
        n = f.macros
        best: tuple[int, int] | None = None
        for first in range(len(used) - n + 1):
            page0 = max(used[first : first + n])
            if page0 + f.pages <= self.pages:
                lost = n * page0 - sum(used[first : first + n])
                rank = (lost, -page0)  # begun macros before fresh ones
                if best is None or rank < best[0:2]:
                    best = rank
                    found = Slot(core, first, page0)
                if lost == 0 and page0:
                    break
        return None if best is None else found

    def take(self, slot: Slot, f: Footprint) -> None:
        """Give the pages out."""
        used = self._used[slot.core]
        used[slot.first_macro : slot.first_macro + f.macros] = [slot.page0 + f.pages] * f.macros


def pages_of(footprints: Sequence[Footprint]) -> int:
    """Pages of macros that footprints take together."""
    return sum(f.macros * f.pages for f in footprints)
