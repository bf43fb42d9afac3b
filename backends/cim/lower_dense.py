"""Strips of matrix layers: load a band, multiply, requantise, finish, store. [cim-machine 2, "Granularity"]."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from math import prod

from lpcompile.backends.cim.grouped import part_of
from lpcompile.backends.cim.memory import Addresses, Local, Place, tile
from lpcompile.backends.cim.program import DTYPE_BYTES, Window
from lpcompile.backends.cim.room import factor_bytes, hidden_bytes, output_bytes, tile_slack
from lpcompile.backends.cim.streams import CONST_BUFFER, Access
from lpcompile.backends.cim.strips import Range, band, input_extent, strip_sizes, strips
from lpcompile.backends.cim.work import I8, Dense, Depthwise, Finish, Lut, Product, Rescale, Sum
from lpcompile.backends.cim.writer import Writer
from lpcompile.errors import CapacityError


@dataclass(frozen=True, slots=True)
class Share:
    """What one core does of a layer.

    Attributes:
        core: where.
        columns: outputs it computes.
        groups: one a round; None on the hp unit.
        program: whether the weights are written in every strip, because not all rounds fit at once.
        phase, of: it takes the strips phase, phase + of, ...
    """

    core: int
    columns: Range
    groups: tuple[int, ...] = ()
    program: bool = False
    phase: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Strips of a layer: extents along the output's position axes, and tiles a kind in the local buffer."""

    sizes: tuple[int, ...]
    copies: int


def layout(work: Dense | Depthwise, columns: int, capacity: int, least: int) -> Layout:
    """Strips that fit beside each other twice, else once.

    Raises:
        CapacityError: not even one position fits.
    """
    for copies in (2, 1):
        need = partial(_bytes, work, columns, copies)
        sizes = strip_sizes(work.out.shape[:-1], need, capacity, least)
        if sizes is not None:
            return Layout(sizes, copies)
    raise CapacityError(
        "one output position does not fit the local buffer",
        where=work.name,
        hint=f"run it on the host with --host {work.name}, or choose a machine with larger buffers",
    )


def _bytes(work: Dense | Depthwise, columns: int, copies: int, sizes: Sequence[int]) -> int:
    x = prod(_band_shape(work, sizes, columns))
    positions = prod(sizes)
    fixed = len(work.weights) * columns + 8 if isinstance(work, Depthwise) else factor_bytes(work)
    of_position = columns * output_bytes(work) + hidden_bytes(work)
    return copies * (x + positions * of_position + tile_slack(work)) + fixed


def _band_shape(work: Dense | Depthwise, sizes: Sequence[int], columns: int) -> tuple[int, ...]:
    channels = work.x.shape[-1] if isinstance(work, Dense) else columns // work.weights.shape[2]
    if work.window is None:
        return (*sizes, channels)
    lead = len(sizes) - len(work.window.kernel)
    spatial = work.x.shape[lead:-1]
    return (*sizes[:lead], *input_extent(work.window, spatial, sizes[lead:]), channels)


def write_layer(
    w: Writer, at: Addresses, work: Dense | Depthwise, shares: Sequence[Share], capacity: int, least: int
) -> None:
    """Write all strips of a layer, strip by strip so that what follows can begin early."""
    w.node = work.name
    if not shares or not work.out.size:
        return
    if any(s.program for s in shares):
        least = 1  # every strip writes the weights anew
    widest = max(s.columns[1] - s.columns[0] for s in shares)
    plan = layout(work, widest, capacity, max(least, *(s.of for s in shares)))
    rooms = {core: _Room(work, plan, widest) for core in dict.fromkeys(s.core for s in shares)}
    workers = [_Worker(w, at, work, share, rooms[share.core]) for share in shares]
    waiting: dict[int, tuple[_Worker, tuple[Range, ...], int]] = {}  # by core: loaded, not yet multiplied
    for i, strip in enumerate(strips(work.out.shape[:-1], plan.sizes)):
        for worker in workers:
            if i % worker.share.of != worker.share.phase:
                continue
            turn = worker.room.next_turn()
            worker.load(strip, turn)
            before = waiting.pop(worker.core, None)
            if before is not None:  # its band came before this one, so that loading and multiplying overlap
                before[0].finish(*before[1:])
            if plan.copies > 1:
                waiting[worker.core] = (worker, strip, turn)
            else:
                worker.finish(strip, turn)
    for worker, strip, turn in waiting.values():
        worker.finish(strip, turn)


class _Room:
    """Tiles of one layer in the local buffer of a core, used in turn by all that it does of the layer."""

    def __init__(self, work: Dense | Depthwise, plan: Layout, widest: int) -> None:
        self.local = local = Local(plan.copies)
        shape = (*plan.sizes, widest)
        self.x = local.tiles("u8", _band_shape(work, plan.sizes, widest))
        self.acc = local.tiles("i32", shape)
        self.y = local.tiles("u8", shape)
        self.others = [local.tiles(f.other.dtype, shape) if f.other is not None else [] for f in work.steps]
        self.wide = [local.tiles("i32", shape) if isinstance(f.step, Product) else [] for f in work.steps]
        self.side = _SideRoom.of(work, local, plan.sizes, widest)
        self._turns = count()

    def next_turn(self) -> int:
        """Which tiles the next strip takes."""
        return next(self._turns) % self.local.copies


@dataclass(frozen=True, slots=True)
class _SideRoom:
    """Tiles of a side path: sums of its first product, 16-bit numbers made of them, sums of its second; its factors."""

    sums: list[Place]
    hidden: list[Place]
    added: list[Place]
    factors: list[Place] = field(default_factory=list)

    @classmethod
    def of(
        cls, work: Dense | Depthwise, local: Local, sizes: Sequence[int], widest: int
    ) -> "_SideRoom | None":
        """None where there is no side path."""
        if not isinstance(work, Dense) or work.side is None:
            return None
        inner = (*sizes, len(work.side.second))
        sums, hidden = (local.tiles(kind, inner) for kind in ("i32", "i16"))
        return cls(sums, hidden, local.tiles("i32", (*sizes, widest)))


class _Worker:
    """One share of a layer at work."""

    def __init__(self, w: Writer, at: Addresses, work: Dense | Depthwise, share: Share, room: _Room) -> None:
        self.w, self.at, self.work, self.share, self.room = w, at, work, share, room
        self.core = share.core
        self.requant = part_of(work.requant, share.columns)
        self.weights = self._load_weights(room.local) if isinstance(work, Depthwise) else None
        self.factors = self._load_factors(room)

    def _load_weights(self, local: Local) -> Place:
        """The depthwise weights of these columns, loaded once."""
        assert isinstance(self.work, Depthwise)
        mult = self.work.weights.shape[2]
        part = self.work.weights[:, self.share.columns[0] // mult : self.share.columns[1] // mult]
        return self._loaded(part, local)

    def _load_factors(self, room: _Room) -> tuple[Place, Place] | None:
        """The factors of the side path, loaded once a core; of the second those of these columns."""
        if not isinstance(self.work, Dense) or self.work.side is None or room.side is None:
            return None
        if not room.side.factors:
            whole = self.work.side.first, self.work.side.second
            room.side.factors.extend(self._loaded(factor, room.local) for factor in whole)
        first, second = room.side.factors
        return first, second.part(((0, second.shape[0]), self.share.columns))

    def _loaded(self, part: I8, local: Local) -> Place:
        address = self.w.tables.const(part.tobytes())
        (to,) = local.tiles("i8", part.shape, copies=1)
        space, first = self.at.consts
        source = replace(tile("i8", first + address, part.shape), space=space, buffer=CONST_BUFFER)
        self.w.copy(self.core, "LD", to, source)
        return to

    def load(self, strip: tuple[Range, ...], turn: int) -> None:
        """Load the band of one strip."""
        source, _ = self._input(strip)
        self.w.node = self.work.name
        self.w.copy(self.core, "LD", _sized(self.room.x[turn], source.shape), source)

    def finish(self, strip: tuple[Range, ...], turn: int) -> None:
        """Multiply, finish, store one strip whose band is there."""
        w, core = self.w, self.core
        w.node = self.work.name
        shape = (*(b - a for a, b in strip), self.share.columns[1] - self.share.columns[0])
        source, window = self._input(strip)
        x = _sized(self.room.x[turn], source.shape)
        acc = _sized(self.room.acc[turn], shape)
        self._multiply(x, window, acc)
        self._add_side(x, window, acc, turn)
        out = self.at.place(self.work.out).part((*strip, self.share.columns))
        if self.work.out.dtype == "i32":
            flat = _flat(acc)
            w.vrq(core, flat, flat, self.requant)
            w.copy(core, "ST", out, acc)
            return
        y = _sized(self.room.y[turn], shape)
        w.vrq(core, _flat(y), _flat(acc), self.requant)
        for i, finish in enumerate(self.work.steps):
            w.node = finish.node
            self._finish(finish, i, turn, strip, y)
        w.node = self.work.name
        w.copy(core, "ST", out, y)

    def _input(self, strip: tuple[Range, ...]) -> tuple[Place, Window | None]:
        x, window = self.at.place(self.work.x), self.work.window
        if isinstance(self.work, Depthwise):
            mult = self.work.weights.shape[2]
            channels = (self.share.columns[0] // mult, self.share.columns[1] // mult)
        else:
            channels = (0, x.shape[-1])
        if window is None:
            return x.part((*strip, channels)), None
        lead = len(strip) - len(window.kernel)
        ranges, inner = band(window, x.shape[lead:-1], strip[lead:])
        return x.part((*strip[:lead], *ranges, channels)), inner

    def _multiply(self, x: Place, window: Window | None, acc: Place) -> None:
        if isinstance(self.work, Depthwise):
            assert self.weights is not None
            self.w.vdw(self.core, acc.access(), x.access(window=window), self.weights.access())
            return
        operand = x.access(window=window, bits=self.work.input_bits)
        if window is None:
            operand = _flat(x, bits=self.work.input_bits)
        flat = _flat(acc)
        for i, group in enumerate(self.share.groups):
            if self.share.program:
                self.w.wprog(self.core, group, self.w.tables.groups.entries[group].page0)
            self.w.mvm(self.core, group, operand, flat, init=i == 0)

    def _add_side(self, x: Place, window: Window | None, acc: Place, turn: int) -> None:
        """The side path of a strip on the hp unit, added to the accumulators before they are requantised."""
        if self.factors is None or self.room.side is None:
            return
        assert isinstance(self.work, Dense)
        assert self.work.side is not None
        w, core, side, room = self.w, self.core, self.work.side, self.room.side
        positions, rank = acc.shape[:-1], len(side.second)
        sums, hidden = (_sized(r[turn], (*positions, rank)) for r in (room.sums, room.hidden))
        added = _sized(room.added[turn], acc.shape)
        first, second = (f.access() for f in self.factors)
        w.vmm(core, _flat(sums), _flat(x) if window is None else x.access(window=window), first)
        w.vrq(core, _flat(hidden), _flat(sums), side.hidden)
        w.vmm(core, _flat(added), _flat(hidden), second)
        w.vrq(core, _flat(added), _flat(added), side.added)
        w.acc(core, _flat(acc), _flat(added))

    def _finish(self, finish: Finish, i: int, turn: int, strip: tuple[Range, ...], y: Place) -> None:
        w, core, step, other = self.w, self.core, finish.step, finish.other
        flat = _flat(y)
        if isinstance(step, Lut):
            w.vlut(core, flat, flat, step.table)
            return
        if isinstance(step, Rescale):
            w.vrq(core, flat, flat, part_of(step.requant, self.share.columns))
            return
        assert other is not None
        source = self.at.place(other).part((*strip, self.share.columns))
        o = _sized(self.room.others[i][turn], y.shape)
        w.copy(core, "LD", o, source)
        if isinstance(step, Sum):
            w.vaddq(core, y, flat.descriptor.dims, flat, _flat(o), step.requant)
        else:
            wide = _flat(_sized(self.room.wide[i][turn], y.shape))
            w.vmul(core, wide, _flat(y, zero=step.zeros[0]), _flat(o, zero=step.zeros[1]))
            w.vrq(core, flat, wide, step.requant)


def _sized(room: Place, shape: Sequence[int]) -> Place:
    """A dense tile of this shape at the start of a larger one."""
    return tile(room.dtype, room.base, shape)


def _flat(place: Place, *, bits: int = 8, zero: int = 0) -> Access:
    """A dense tile as (positions, last axis)."""
    n = place.shape[-1]
    item = DTYPE_BYTES[place.dtype]
    dims = ((prod(place.shape[:-1]), n * item), (n, item))
    return place.access(dims, bits=bits, zero=zero)
