"""Layers cut to what a core can hold: matrices of their own, column ranges, rounds. [cim-machine 2, scheduling 2]."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from lpcompile.backends.cim.geometry import Footprint, Geometry
from lpcompile.backends.cim.planes import planes_of, store_planes
from lpcompile.backends.cim.program import Group, PlaneSet
from lpcompile.backends.cim.room import factor_bytes, hidden_bytes, output_bytes, tile_slack
from lpcompile.backends.cim.slots import Slot
from lpcompile.backends.cim.strips import input_extent
from lpcompile.backends.cim.tables import Tables
from lpcompile.backends.cim.work import Dense
from lpcompile.errors import CapacityError


@dataclass(frozen=True, slots=True)
class Cut:
    """One layer as columns and rounds.

    Attributes:
        planes: of its weights.
        columns: output ranges, one a piece.
        rounds: row ranges that a core holds at a time; one where the whole column range fits.
        footprint: macros of the widest piece for the longest round.
    """

    planes: PlaneSet
    columns: tuple[tuple[int, int], ...]
    rounds: tuple[tuple[int, int], ...]
    footprint: Footprint

    @property
    def macros(self) -> int:
        """Macros of one copy of the layer."""
        return len(self.columns) * self.footprint.macros


def cut(work: Dense, g: Geometry) -> Cut:
    """Cut a layer so that each piece fits a core's macros and local buffer.

    Raises:
        CapacityError: one output position does not fit the local buffer.
    """
    rows, outputs = work.weights.shape
    planes = planes_of(work.weights)
    width = g.outputs_per_macro(planes)
    if width < 1:
        raise CapacityError(
            f"{len(planes.coefficients)} planes of one weight do not fit {g.columns} columns",
            where=work.name,
            hint="choose a machine with wider arrays or a narrower --weight-format",
        )
    read = _input_bytes(work) + hidden_bytes(work) + factor_bytes(work)
    room = (g.lb_bytes - read - tile_slack(work)) // output_bytes(work)
    if room < 1:
        raise CapacityError(
            f"the {read} bytes that one output position reads do not fit the local buffer",
            where=work.name,
            hint=f"run it on the host with --host {work.name}, or choose a machine with larger buffers",
        )
    one = Footprint.of(g, rows, 1, planes)
    rounds = ceil(one.down / g.macros)
    blocks = ceil(ceil(rows / g.block_rows) / rounds) * g.block_rows
    across = max(1, g.macros // Footprint.of(g, min(rows, blocks), 1, planes).down)
    most = min(outputs, across * width, room)
    pieces = ceil(outputs / most)
    each = ceil(outputs / pieces)
    if pieces > 1 and each > width:
        each = min(most, ceil(each / width) * width)
    return Cut(
        planes,
        tuple((n, min(n + each, outputs)) for n in range(0, outputs, each)),
        tuple((k, min(k + blocks, rows)) for k in range(0, rows, blocks)),
        Footprint.of(g, min(rows, blocks), each, planes),
    )


def _input_bytes(work: Dense) -> int:
    """Bytes of x that one output position reads."""
    if work.window is None:
        return work.x.shape[-1]
    spatial = work.x.shape[1:-1]
    return int(np.prod(input_extent(work.window, spatial, [1] * len(spatial)))) * work.x.shape[-1]


class Groups:
    """Stores the planes of pieces; copies of a piece share them."""

    def __init__(self, tables: Tables, g: Geometry) -> None:
        self.tables, self.g = tables, g
        self._stored: dict[tuple[int, int, int], Group] = {}

    def of(self, work: Dense, how: Cut, columns: tuple[int, int], slot: Slot) -> list[int]:
        """Groups of one piece, one for each round."""
        found = []
        for row0, stop in how.rounds:
            key = (id(work), row0, columns[0])
            if key not in self._stored:
                self._stored[key] = self._store(work, how, (row0, stop), columns)
            found.append(
                self.tables.groups.add(
                    replace(self._stored[key], first_macro=slot.first_macro, page0=slot.page0)
                )
            )
        return found

    def _store(self, work: Dense, how: Cut, rows: tuple[int, int], columns: tuple[int, int]) -> Group:
        weights = np.ascontiguousarray(work.weights[rows[0] : rows[1], columns[0] : columns[1]])
        stored = store_planes(weights, how.planes, self.g.block_rows, self.g.most_ones)
        foot = Footprint.of(self.g, weights.shape[0], weights.shape[1], how.planes)
        offset = len(self.tables.weights)
        self.tables.weights += stored.packed()
        return Group(
            rows[0],
            rows[1] - rows[0],
            columns[1] - columns[0],
            self.tables.plane_sets.add(how.planes),
            offset,
            0,
            foot.across,
            foot.down,
            foot.pages,
            0,
            self.g.block_rows,
            lossless=self.g.lossless(stored),
        )
