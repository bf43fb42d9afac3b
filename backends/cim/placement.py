"""Which core does what: copies of layers on cores, segments where not everything fits. [cim-machine 2, scheduling].

Layers that fit the machine together are written once, at boot, and copied as long as that shortens the longest of
them.  Where they do not fit, a dynamic programme cuts the layers into segments whose weights are written when their
turn comes, once each: a copy would cost its writing for every sample.  A layer too large for the machine alone is done
piece by piece.  No weights are too large for a machine; what a program cannot hold is more than 65536 entries of a
table, as descriptors or groups, which `tables.py` refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np

from lpcompile.backends.cim.geometry import Geometry
from lpcompile.backends.cim.pieces import Cut
from lpcompile.backends.cim.replicate import Load, replicate
from lpcompile.backends.cim.slots import Slot, Slots, pages_of
from lpcompile.backends.cim.work import Dense

MOST_COPIES = 16
LESS = 0.9  # of the room, where copies that would fill it find none


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of outputs of one layer on one core.

    Attributes:
        layer: number of the layer.
        columns: outputs.
        slot: where.
        copy, copies: it takes the strips copy, copy + copies, ...
        wave: pieces of one layer that have to follow each other on the same macros have rising waves.
    """

    layer: int
    columns: tuple[int, int]
    slot: Slot
    copy: int
    copies: int
    wave: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Pieces by layer, and the segment of each layer; one segment means that weights stay."""

    pieces: tuple[tuple[Piece, ...], ...]
    segments: tuple[int, ...]

    @property
    def resident(self) -> bool:
        """Whether all weights stay."""
        return len(set(self.segments)) <= 1 and all(p.wave == 0 for ps in self.pieces for p in ps)


def load_of(work: Dense, cut: Cut) -> Load:
    """A layer for the search of copies."""
    positions = prod(work.out.shape[:-1])
    cycles = max(1, positions * cut.footprint.pages * work.input_bits * len(cut.rounds))
    return Load(cycles, cut.macros * cut.footprint.pages, max(1, min(MOST_COPIES, positions)))


def place(works: Sequence[Dense], cuts: Sequence[Cut], g: Geometry) -> Placement:
    """Place every layer.

    Args:
        works: matrix layers in program order.
        cuts: how each is cut.
        g: the machine.
    """
    loads = [load_of(w, c) for w, c in zip(works, cuts, strict=True)]
    pieces: list[tuple[Piece, ...]] = [()] * len(works)
    segments = [0] * len(works)
    for number, (first, stop) in enumerate(_segments(loads, cuts, g)):
        chosen = range(first, stop)
        whole = stop - first == len(works)
        packed = _pack(
            [works[i] for i in chosen], [cuts[i] for i in chosen], loads[first:stop], g, copy=whole
        )
        for i, found in zip(chosen, packed, strict=True):
            pieces[i] = tuple(replace(p, layer=i) for p in found)
            segments[i] = number
    return Placement(tuple(pieces), tuple(segments))


def _segments(loads: Sequence[Load], cuts: Sequence[Cut], g: Geometry) -> list[tuple[int, int]]:
    """Ranges of layers whose weights are there together, for the least sum of bottlenecks."""
    n, room = len(loads), g.cores * g.macros * g.row_pages
    if not n:
        return []
    if fits(cuts, g):
        return [(0, n)]
    best: list[float] = [0.0] + [inf] * n
    start = [0] * (n + 1)
    for stop in range(1, n + 1):
        for first in range(stop - 1, -1, -1):
            alone = stop - first == 1
            if not alone and not fits(cuts[first:stop], g):
                break
            time = max(load.cycles * max(1.0, load.pages / room) for load in loads[first:stop])
            if best[first] + time < best[stop]:
                best[stop], start[stop] = best[first] + time, first
    ranges, stop = [], n
    while stop:
        ranges.append((start[stop], stop))
        stop = start[stop]
    return ranges[::-1]


def fits(cuts: Sequence[Cut], g: Geometry) -> bool:
    """Whether one copy of every layer finds room."""
    footprints = [c.footprint for c in cuts for _ in c.columns]
    return pages_of(footprints) <= g.cores * g.macros * g.row_pages and _first_fit(cuts, g) is not None


def _pack(
    works: Sequence[Dense], cuts: Sequence[Cut], loads: Sequence[Load], g: Geometry, *, copy: bool
) -> list[list[Piece]]:
    """Copies and cores for the layers of one segment."""
    single = _first_fit(cuts, g)
    if single is None:  # one layer that is too large: its pieces take turns
        return [_waves(cuts[0], g)]
    room = g.cores * g.macros * g.row_pages
    while copy and room >= sum(load.pages for load in loads):
        counts = replicate(loads, room)
        assert counts is not None, "one copy of each fits"
        found = _assign(cuts, loads, counts, g)
        if found is not None:
            return _nearest(works, found, g)
        room = int(room * LESS)
    found = _assign(cuts, loads, (1,) * len(loads), g)
    return _nearest(works, single if found is None else found, g)


def _waves(cut: Cut, g: Geometry) -> list[Piece]:
    size = cut.footprint.macros
    each = max(1, g.macros // size)
    slots = [Slot(core, i * size, 0) for i in range(each) for core in range(g.cores)]
    return [
        Piece(0, columns, slots[i % len(slots)], 0, 1, i // len(slots))
        for i, columns in enumerate(cut.columns)
    ]


def _assign(
    cuts: Sequence[Cut],
    loads: Sequence[Load],
    counts: Sequence[int],
    g: Geometry,
) -> list[list[Piece]] | None:
    """Each piece to the core with room that is done first, the nearer one of equals; None where one finds no room."""
    free, busy = Slots(g), [0.0] * g.cores
    found: list[list[Piece]] = [[] for _ in cuts]
    for i in _largest_first(cuts):
        share = loads[i].cycles / counts[i]
        for copy in range(counts[i]):
            for columns in cuts[i].columns:
                for core in sorted(range(g.cores), key=lambda c: (busy[c], g.hops[c], c)):
                    slot = free.find(core, cuts[i].footprint)
                    if slot is not None:
                        break
                else:
                    return None
                found[i].append(Piece(0, columns, slot, copy, counts[i]))
                free.take(slot, cuts[i].footprint)
                busy[core] += share
    return found


def _first_fit(cuts: Sequence[Cut], g: Geometry) -> list[list[Piece]] | None:
    """One copy of every layer, cores filled one after the other; None where something finds no room."""
    free = Slots(g)
    found: list[list[Piece]] = [[] for _ in cuts]
    for i in _largest_first(cuts):
        for columns in cuts[i].columns:
            for core in range(g.cores):
                slot = free.find(core, cuts[i].footprint)
                if slot is not None:
                    break
            else:
                return None
            free.take(slot, cuts[i].footprint)
            found[i].append(Piece(0, columns, slot, 0, 1))
    return found


def _largest_first(cuts: Sequence[Cut]) -> list[int]:
    return sorted(range(len(cuts)), key=lambda i: (-cuts[i].footprint.macros, -cuts[i].footprint.pages, i))


def _nearest(works: Sequence[Dense], found: list[list[Piece]], g: Geometry) -> list[list[Piece]]:
    """Cores with much traffic near the global buffer.

    All transfers go through that buffer and cores are alike, so sorting gives the least bytes times hops there is.
    """
    traffic = np.zeros(g.cores)
    for work, pieces in zip(works, found, strict=True):
        for p in pieces:
            width = (p.columns[1] - p.columns[0]) / max(1, work.out.shape[-1])
            traffic[p.slot.core] += (work.x.size + work.out.size * width) / p.copies
    order = np.argsort(-traffic, kind="stable")
    nearest = sorted(range(g.cores), key=lambda c: (g.hops[c], c))
    to = {int(old): new for old, new in zip(order, nearest, strict=True)}
    return [[replace(p, slot=replace(p.slot, core=to[p.slot.core])) for p in ps] for ps in found]
