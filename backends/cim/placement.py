"""Which core does what: copies of layers on cores, segments where not everything fits. [cim-machine 2, scheduling].

Layers that fit the machine together are written once, at boot, and copied as long as that shortens the longest of
them.  Where they do not fit, a dynamic programme cuts the layers into segments whose weights are written when their
turn comes, once each: a copy would cost its writing for every sample.  A layer too large for the machine alone is done
piece by piece.  Nothing is refused for its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

import numpy as np

from lpcompile.backends.cim.geometry import Geometry
from lpcompile.backends.cim.pieces import Cut
from lpcompile.backends.cim.replicate import Load, replicate
from lpcompile.backends.cim.work import Dense

MOST_COPIES = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of outputs of one layer on one core.

    Attributes:
        layer: number of the layer.
        columns: outputs.
        core, first_macro: where.
        copy, copies: it takes the strips copy, copy + copies, ...
        wave: pieces of one layer that have to follow each other on the same macros have rising waves.
    """

    layer: int
    columns: tuple[int, int]
    core: int
    first_macro: int
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
    return Load(cycles, cut.macros, max(1, min(MOST_COPIES, positions)))


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
            pieces[i] = tuple(
                Piece(i, p.columns, p.core, p.first_macro, p.copy, p.copies, p.wave) for p in found
            )
            segments[i] = number
    return Placement(tuple(pieces), tuple(segments))


def _segments(loads: Sequence[Load], cuts: Sequence[Cut], g: Geometry) -> list[tuple[int, int]]:
    """Ranges of layers whose weights are there together, for the least sum of bottlenecks."""
    n, room = len(loads), g.cores * g.macros
    if not n:
        return []
    if _fits(cuts, g):
        return [(0, n)]
    best: list[float] = [0.0] + [inf] * n
    start = [0] * (n + 1)
    for stop in range(1, n + 1):
        for first in range(stop - 1, -1, -1):
            alone = stop - first == 1
            if not alone and not _fits(cuts[first:stop], g):
                break
            time = max(load.cycles * max(1.0, load.macros / room) for load in loads[first:stop])
            if best[first] + time < best[stop]:
                best[stop], start[stop] = best[first] + time, first
    ranges, stop = [], n
    while stop:
        ranges.append((start[stop], stop))
        stop = start[stop]
    return ranges[::-1]


def _fits(cuts: Sequence[Cut], g: Geometry) -> bool:
    """Whether first fit, widest pieces first, finds room for one copy of every layer."""
    free = [g.macros] * g.cores
    sizes = sorted((c.footprint.macros for c in cuts for _ in c.columns), reverse=True)
    if sum(sizes) > g.cores * g.macros:
        return False
    for size in sizes:
        for core, room in enumerate(free):
            if room >= size:
                free[core] -= size
                break
        else:
            return False
    return True


def _pack(
    works: Sequence[Dense], cuts: Sequence[Cut], loads: Sequence[Load], g: Geometry, *, copy: bool
) -> list[list[Piece]]:
    """Copies and cores for the layers of one segment."""
    if not _fits(cuts, g):  # one layer that is too large: its pieces take turns
        return [_waves(cuts[0], g)]
    counts = list((replicate(loads, g.cores * g.macros) if copy else None) or (1,) * len(loads))
    while True:
        found = _assign(cuts, loads, counts, g)
        if found is not None:
            return _nearest(works, found, g)
        worst = max(range(len(counts)), key=lambda i: (counts[i] > 1, counts[i] * loads[i].macros))
        if counts[worst] == 1:
            return _first_fit(cuts, g)
        counts[worst] -= 1


def _waves(cut: Cut, g: Geometry) -> list[Piece]:
    size = cut.footprint.macros
    each = max(1, g.macros // size)
    slots = [(core, i * size) for i in range(each) for core in range(g.cores)]
    return [
        Piece(0, columns, *slots[i % len(slots)], 0, 1, i // len(slots))
        for i, columns in enumerate(cut.columns)
    ]


def _assign(
    cuts: Sequence[Cut],
    loads: Sequence[Load],
    counts: Sequence[int],
    g: Geometry,
) -> list[list[Piece]] | None:
    """Each piece to the core with room that is done first, the nearer one of equals; None where one finds no room."""
    used, busy = [0] * g.cores, [0.0] * g.cores
    found: list[list[Piece]] = [[] for _ in cuts]
    order = sorted(range(len(cuts)), key=lambda i: -cuts[i].footprint.macros)
    for i in order:
        size = cuts[i].footprint.macros
        share = loads[i].cycles / counts[i]
        for copy in range(counts[i]):
            for columns in cuts[i].columns:
                open_cores = [c for c in range(g.cores) if used[c] + size <= g.macros]
                if not open_cores:
                    return None
                core = min(open_cores, key=lambda c: (busy[c], g.hops[c], c))
                found[i].append(Piece(0, columns, core, used[core], copy, counts[i]))
                used[core] += size
                busy[core] += share
    return found


def _first_fit(cuts: Sequence[Cut], g: Geometry) -> list[list[Piece]]:
    """One copy of every layer as `_fits` found room for it."""
    used = [0] * g.cores
    found: list[list[Piece]] = [[] for _ in cuts]
    jobs = sorted(
        ((c.footprint.macros, i, n) for i, c in enumerate(cuts) for n in c.columns), key=lambda j: -j[0]
    )
    for size, i, columns in jobs:
        core = next(c for c in range(g.cores) if used[c] + size <= g.macros)
        found[i].append(Piece(0, columns, core, used[core], 0, 1))
        used[core] += size
    return [sorted(pieces, key=lambda p: p.columns) for pieces in found]


def _nearest(works: Sequence[Dense], found: list[list[Piece]], g: Geometry) -> list[list[Piece]]:
    """Cores with much traffic near the global buffer.

    All transfers go through that buffer and cores are alike, so sorting gives the least bytes times hops there is.
    """
    traffic = np.zeros(g.cores)
    for work, pieces in zip(works, found, strict=True):
        for p in pieces:
            width = (p.columns[1] - p.columns[0]) / max(1, work.out.shape[-1])
            traffic[p.core] += (work.x.size + work.out.size * width) / p.copies
    order = np.argsort(-traffic, kind="stable")
    nearest = sorted(range(g.cores), key=lambda c: (g.hops[c], c))
    to = {int(old): new for old, new in zip(order, nearest, strict=True)}
    return [
        [Piece(0, p.columns, to[p.core], p.first_macro, p.copy, p.copies, p.wave) for p in ps] for ps in found
    ]
