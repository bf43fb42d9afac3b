"""Write the work of a device stage as instructions, in program order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from lpcompile.backends.cim.lower_dense import Share, write_layer
from lpcompile.backends.cim.lower_vector import write_fill, write_map, write_move, write_pool
from lpcompile.backends.cim.memory import Addresses
from lpcompile.backends.cim.views import View
from lpcompile.backends.cim.work import Dense, Depthwise, Fill, Map, Move, Pool, Work, reads
from lpcompile.backends.cim.writer import Writer

LEAST_STRIPS = 4  # of a tensor, so that layers after one another can overlap


@dataclass(frozen=True)
class Shares:
    """Which core does what.

    Attributes:
        dense: by matrix layer (its id), shares by wave.
        depthwise: by depthwise layer (its id), output ranges that fit a local buffer.
        resident: whether weights were written at boot.
    """

    dense: Mapping[int, Sequence[Sequence[Share]]]
    depthwise: Mapping[int, Sequence[tuple[int, int]]]
    resident: bool


def write_stage(
    works: Sequence[Work],
    w: Writer,
    at: Addresses,
    shares: Shares,
    capacity: int,
    earlier: Mapping[int, Sequence[int]],
) -> None:
    """Write all work of a stage in program order.

    Args:
        works: what is to be done.
        w: where it goes.
        at: addresses of the stage.
        shares: which core does what of each layer.
        capacity: bytes of a local buffer.
        earlier: by buffer, those that had some of its bytes before.
    """
    cores: dict[int, list[int]] = {}
    begun: set[int] = set()
    for work in works:
        for view in (*reads(work), work.out):
            if view.buffer not in begun:
                begun.add(view.buffer)
                w.streams.reuse(view.buffer, earlier.get(view.buffer, ()))
        near = next((cores[v.buffer] for v in reads(work) if v.buffer in cores), [0])
        if isinstance(work, Dense):
            near = _write_dense(w, at, work, shares, capacity)
        elif isinstance(work, Depthwise):
            near = _spread(near, work.out)
            for part in shares.depthwise[id(work)]:  # one after the other: weights of one part at a time
                shares_of = [Share(core, part, phase=i, of=len(near)) for i, core in enumerate(near)]
                write_layer(w, at, work, shares_of, capacity, LEAST_STRIPS)
        elif isinstance(work, Map):
            near = _spread(near, work.out)
            write_map(w, at, work, near, capacity, max(LEAST_STRIPS, len(near)))
        elif isinstance(work, Pool):
            near = _spread(near, work.out)
            write_pool(w, at, work, near, capacity, max(LEAST_STRIPS, len(near)))
        elif isinstance(work, Move):
            write_move(w, at, work, near[0])
        elif isinstance(work, Fill):
            write_fill(w, at, work, near[0])
        cores[work.out.buffer] = near


def _write_dense(w: Writer, at: Addresses, work: Dense, shares: Shares, capacity: int) -> list[int]:
    waves = shares.dense[id(work)]
    for wave in waves:
        w.node = work.name
        if not shares.resident:
            for share in wave:
                if not share.program:
                    w.wprog(share.core, share.groups[0], w.tables.groups.entries[share.groups[0]].page0)
        write_layer(w, at, work, wave, capacity, LEAST_STRIPS)
    return list(dict.fromkeys(s.core for wave in waves for s in wave))


def _spread(near: list[int], out: View) -> list[int]:
    """Cores for work without arrays: those that made the input, as long as each gets some of it."""
    return near[: max(1, min(len(near), prod(out.shape[:-1])))]
