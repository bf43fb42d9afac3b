"""Work without arrays: elementwise steps, pools, copies and fills, cut so that pieces fit a local buffer."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from math import ceil, prod

from lpcompile.backends.cim.grouped import part_of
from lpcompile.backends.cim.memory import Addresses, Local, Place, tile
from lpcompile.backends.cim.program import DTYPE_BYTES, Window
from lpcompile.backends.cim.strips import Range, band, input_extent, strip_sizes, strips
from lpcompile.backends.cim.views import merged_dims
from lpcompile.backends.cim.work import Fill, Lut, Map, Move, Pool, Product, Rescale, Sum
from lpcompile.backends.cim.writer import POOL_MAX, POOL_SUM, Writer
from lpcompile.errors import CapacityError

COPIES = 2


def write_map(w: Writer, at: Addresses, work: Map, cores: Sequence[int], capacity: int, least: int) -> None:
    """Elementwise work, along the memory order of the output."""
    w.node = work.name
    out, x = at.place(work.out), at.place(work.x.expanded(work.out.shape))
    other = None if work.other is None else at.place(work.other.expanded(work.out.shape))
    order = sorted(range(len(out.shape)), key=lambda i: (-abs(out.strides[i]), i))
    places = [_ordered(p, order) for p in (out, x, *([] if other is None else [other]))]
    per_channel = (
        isinstance(work.step, Rescale) and max(len(work.step.requant.m), len(work.step.requant.b)) > 1
    )
    if per_channel:
        places = _channel_last(places, order.index(len(out.shape) - 1))
    places = _merged(places, keep_last=per_channel)
    counts = places[0].shape
    each = sum(DTYPE_BYTES[p.dtype] for p in places) + (4 if isinstance(work.step, Product) else 0)
    sizes = strip_sizes(counts, lambda s: COPIES * (prod(s) * each + 32), capacity, least)
    if sizes is None:
        raise CapacityError("one element does not fit the local buffer", where=work.name)
    for i, (core, part) in enumerate(zip(cycle(cores), strips(counts, sizes), strict=False)):
        _map_strip(w, work, core, [p.part(part) for p in places], sizes, i // len(cores) % COPIES, part)


def _map_strip(
    w: Writer,
    work: Map,
    core: int,
    places: Sequence[Place],
    sizes: Sequence[int],
    turn: int,
    part: Sequence[Range],
) -> None:
    local = Local(COPIES)
    tiles = [local.tiles(p.dtype, sizes)[turn] for p in places]
    wide = local.tiles("i32", sizes)[turn]
    shape = places[0].shape
    y, *operands = (tile(t.dtype, t.base, shape) for t in tiles)
    for to, source in zip(operands, places[1:], strict=True):
        w.copy(core, "LD", to, source)
    step = work.step
    if isinstance(step, Lut):
        w.vlut(core, y.access(), operands[0].access(), step.table)
    elif isinstance(step, Rescale):
        w.vrq(core, y.access(), operands[0].access(), part_of(step.requant, part[-1]))
    elif isinstance(step, Sum):
        dims = tuple(zip(y.shape, y.strides, strict=True))
        w.vaddq(core, y, dims, operands[0].access(), operands[1].access(), step.requant)
    else:
        product = tile("i32", wide.base, shape).access()
        a, b = (o.access(zero=z) for o, z in zip(operands, step.zeros, strict=True))
        w.vmul(core, product, a, b)
        w.vrq(core, y.access(), product, step.requant)
    w.copy(core, "ST", places[0], y)


def _ordered(p: Place, order: Sequence[int]) -> Place:
    return replace(p, shape=tuple(p.shape[i] for i in order), strides=tuple(p.strides[i] for i in order))


def _channel_last(places: Sequence[Place], channel: int) -> list[Place]:
    order = [i for i in range(len(places[0].shape)) if i != channel] + [channel]
    return [_ordered(p, order) for p in places]


def _merged(places: Sequence[Place], *, keep_last: bool) -> list[Place]:
    """Axes that lie one after the other in every place, made one."""
    shape = places[0].shape
    split = len(shape) - 1 if keep_last else len(shape)
    dims = merged_dims(shape[:split], *(p.strides[:split] for p in places))
    found = []
    for p, d in zip(places, dims, strict=True):
        if keep_last:
            d = (*d, (shape[-1], p.strides[-1]))
        found.append(replace(p, shape=tuple(n for n, _ in d), strides=tuple(s for _, s in d)))
    return found


def write_pool(w: Writer, at: Addresses, work: Pool, cores: Sequence[int], capacity: int, least: int) -> None:
    """Windows of each channel; a window that does not fit is summed in bands."""
    w.node = work.name
    if not work.out.size:
        return
    if work.kind == "sum" and not _fits(work, capacity):
        _write_banded_sum(w, at, work, cores, capacity)
        return
    counts = work.out.shape
    sizes = strip_sizes(counts, lambda s: COPIES * _pool_bytes(work, s), capacity, least)
    if sizes is None:
        raise CapacityError(
            "one window does not fit the local buffer",
            where=work.name,
            hint=f"run it on the host with --host {work.name}",
        )
    for i, (core, strip) in enumerate(zip(cycle(cores), strips(counts, sizes), strict=False)):
        _pool_strip(w, at, work, core, sizes, strip, i // len(cores) % COPIES)


def _fits(work: Pool, capacity: int) -> bool:
    return COPIES * _pool_bytes(work, [1] * len(work.out.shape)) <= capacity


def _pool_bytes(work: Pool, sizes: Sequence[int]) -> int:
    lead = len(sizes) - 1 - len(work.window.kernel)
    extent = input_extent(work.window, work.x.shape[lead:-1], sizes[lead:-1])
    outputs = prod(sizes)
    return (
        prod(sizes[:lead]) * prod(extent) * sizes[-1]
        + outputs
        + (4 * outputs if work.kind == "sum" else 0)
        + 32
    )


def _pool_strip(
    w: Writer,
    at: Addresses,
    work: Pool,
    core: int,
    sizes: Sequence[int],
    strip: tuple[Range, ...],
    turn: int,
) -> None:
    x = at.place(work.x)
    lead = len(sizes) - 1 - len(work.window.kernel)
    ranges, inner = band(work.window, x.shape[lead:-1], strip[lead:-1])
    source = x.part((*strip[:lead], *ranges, strip[-1]))
    extent = input_extent(work.window, x.shape[lead:-1], sizes[lead:-1])
    local = Local(COPIES)
    room = local.tiles("u8", (*sizes[:lead], *extent, sizes[-1]))[turn]
    y_room = local.tiles("u8", sizes)[turn]
    shape = tuple(b - a for a, b in strip)
    band_tile, y = tile("u8", room.base, source.shape), tile("u8", y_room.base, shape)
    w.copy(core, "LD", band_tile, source)
    operand = band_tile.access(window=inner)
    if work.kind == "max":
        w.vpool(core, y.access(), operand, POOL_MAX)
    else:
        total = tile("i32", local.tiles("i32", sizes)[turn].base, shape)
        w.vpool(core, total.access(), operand, POOL_SUM)
        _requant_parts(w, core, work, total, y, strip, lead)
    w.copy(core, "ST", at.place(work.out).part(strip), y)


def _requant_parts(
    w: Writer, core: int, work: Pool, total: Place, y: Place, strip: Sequence[Range], lead: int
) -> None:
    """Requantise a strip; positions with another divisor have a requantisation of their own."""
    for requant, box in work.requants:
        inside = []
        for (first, stop), (low, high) in zip(strip[lead:-1], box, strict=True):
            inside.append((max(first, low) - first, min(stop, high) - first))
        if all(a < b for a, b in inside):
            ranges = [*((0, n) for n in y.shape[:lead]), *inside]
            w.vrq(core, y.part(ranges).access(), total.part(ranges).access(), requant)


def _write_banded_sum(w: Writer, at: Addresses, work: Pool, cores: Sequence[int], capacity: int) -> None:
    """A window larger than the local buffer: sums over bands of its first axis, added up. One output at a time."""
    x = at.place(work.x)
    kernel = work.window.kernel
    lead = len(work.out.shape) - 1 - len(kernel)
    channels = work.out.shape[-1]
    inner = prod(input_extent(work.window, x.shape[lead:-1], [1] * len(kernel))[1:])
    each = max(1, min(channels, (capacity - 64) // (inner + 16)))
    rows = max(1, min(kernel[0], ((capacity - 64) // each - 16) // max(1, inner)))
    if work.window.dilations[0] > 1 or rows * inner * each + 10 * each + 64 > capacity:
        raise CapacityError(
            "one window does not fit the local buffer, nor do bands of its rows",
            where=work.name,
            hint=f"run it on the host with --host {work.name}",
        )
    counts = (*work.out.shape[:-1], ceil(channels / each))
    for core, strip in zip(cycle(cores), strips(counts, [1] * len(counts)), strict=False):
        part = (strip[-1][0] * each, min(strip[-1][1] * each, channels))
        where = (*strip[:-1], part)
        ranges, window = band(work.window, x.shape[lead:-1], where[lead:-1])
        shape = tuple(b - a for a, b in where)
        total, some = (tile("i32", 16 * each * i // 2, shape) for i in (0, 1))
        y = tile("u8", 16 * each, shape)
        room = -(-(16 * each + each) // 8) * 8
        for i, first in enumerate(range(*ranges[0], rows)):
            stop = min(first + rows, ranges[0][1])
            source = x.part((*where[:lead], (first, stop), *ranges[1:], part))
            held = tile("u8", room, source.shape)
            w.copy(core, "LD", held, source)
            before = (
                window.begin[0] if first == ranges[0][0] else 0
            )  # padding counts, in the first and last band
            after = window.end[0] if stop == ranges[0][1] else 0
            one = Window(
                (stop - first + before + after, *window.kernel[1:]),
                window.strides,
                window.dilations,
                (before, *window.begin[1:]),
                (after, *window.end[1:]),
                window.pad_value,
            )
            to = some if i else total
            w.vpool(core, to.access(), held.access(window=one), POOL_SUM)
            if i:
                w.acc(core, total.access(), some.access())
        _requant_parts(w, core, work, total, y, where, lead)
        w.copy(core, "ST", at.place(work.out).part(where), y)


def write_move(w: Writer, at: Addresses, work: Move, core: int) -> None:
    """A copy by the DMA of one core."""
    w.node = work.name
    if work.out.size:
        w.copy(core, "MOV", at.place(work.out), at.place(work.x))


def write_fill(w: Writer, at: Addresses, work: Fill, core: int) -> None:
    """One value everywhere: a single element in the local buffer, stored again and again."""
    w.node = work.name
    if work.out.size:
        one = tile(work.out.dtype, 0, (1,))
        w.fill(core, one.access(), work.value)
        out = at.place(work.out)
        w.copy(core, "ST", out, replace(one, shape=out.shape, strides=(0,) * len(out.shape)))
