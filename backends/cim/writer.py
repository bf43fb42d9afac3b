"""Instructions by name: operands go into the tables, accesses to the hazard tracking."""

from collections.abc import Sequence
from dataclasses import replace

from lpcompile.backends.cim.memory import Place
from lpcompile.backends.cim.program import INIT, MAX_DIMS, Instruction, Queue, Requant
from lpcompile.backends.cim.streams import Access, Streams
from lpcompile.backends.cim.tables import Tables
from lpcompile.backends.cim.views import Dims, merged_dims

VOP_MUL = 2
POOL_MAX, POOL_SUM = 0, 1


class Writer:
    """Writes instructions of one ONNX node at a time."""

    def __init__(self, tables: Tables, streams: Streams) -> None:
        self.tables, self.streams = tables, streams
        self.node = ""

    def copy(self, core: int, mnemonic: str, to: Place, source: Place) -> None:
        """LD, ST or MOV between places of one shape, axes merged where both lie one after the other."""
        d, s = merged_dims(to.shape, to.strides, source.strides)
        self._copy(core, mnemonic, (to, d), (source, s))

    def _copy(self, core: int, mnemonic: str, to: tuple[Place, Dims], source: tuple[Place, Dims]) -> None:
        dims = to[1]
        if len(dims) > MAX_DIMS:  # one instruction for each index of the slowest axis
            for i in range(dims[0][0]):
                self._copy(core, mnemonic, _inner(*to, i), _inner(*source, i))
            return
        d, s = to[0].access(dims), source[0].access(source[1])
        self._emit(core, Queue.DMA, mnemonic, (d, s), reads=[s], writes=[d])

    def wprog(self, core: int, group: int, page: int) -> None:
        """Write a group's planes."""
        self._emit(core, Queue.CIM, "WPROG", (group, page))

    def mvm(self, core: int, group: int, x: Access, acc: Access, *, init: bool) -> None:
        """Matrix product of a group into accumulators."""
        self._emit(core, Queue.CIM, "MVM", (group, x, acc), reads=[x], writes=[acc], flags=INIT * init)

    def vmm(self, core: int, acc: Access, x: Access, w: Access) -> None:
        """Dense product on the hp unit."""
        self._emit(core, Queue.VEC, "VMM", (acc, x, w), reads=[x, w], writes=[acc], flags=INIT)

    def vdw(self, core: int, acc: Access, x: Access, w: Access) -> None:
        """Depthwise product on the hp unit."""
        self._emit(core, Queue.VEC, "VDW", (acc, x, w), reads=[x, w], writes=[acc], flags=INIT)

    def vrq(self, core: int, to: Access, source: Access, requant: Requant) -> None:
        """Requantise."""
        rq = self.tables.requants.add(requant)
        self._emit(core, Queue.VEC, "VRQ", (to, source, rq), reads=[source], writes=[to])

    def vaddq(
        self, core: int, to: Place, dims: Sequence[tuple[int, int]], a: Access, b: Access, rq: Requant
    ) -> None:
        """Add with one rounding."""
        access = to.access(tuple(dims), requant=self.tables.requants.add(rq))
        self._emit(core, Queue.VEC, "VADDQ", (access, a, b), reads=[a, b], writes=[access])

    def vmul(self, core: int, to: Access, a: Access, b: Access) -> None:
        """Product of two operands, each less its zero point."""
        self._emit(core, Queue.VEC, "VOP", (to, a, b), reads=[a, b], writes=[to], unit=VOP_MUL)

    def vlut(self, core: int, to: Access, source: Access, table: bytes) -> None:
        """Look up."""
        lut = self.tables.luts.add(table)
        self._emit(core, Queue.VEC, "VLUT", (to, source, lut), reads=[source], writes=[to])

    def vpool(self, core: int, to: Access, source: Access, unit: int) -> None:
        """Largest or sum of windows."""
        self._emit(core, Queue.VEC, "VPOOL", (to, source), reads=[source], writes=[to], unit=unit)

    def acc(self, core: int, to: Access, source: Access) -> None:
        """Add accumulators."""
        self._emit(core, Queue.VEC, "ACC", (to, source), reads=[to, source], writes=[to])

    def fill(self, core: int, to: Access, value: int) -> None:
        """One value everywhere."""
        self._emit(core, Queue.VEC, "FILL", (to, value & 0xFFFF), writes=[to])

    def _emit(
        self,
        core: int,
        queue: Queue,
        mnemonic: str,
        operands: Sequence[Access | int],
        *,
        reads: Sequence[Access] = (),
        writes: Sequence[Access] = (),
        unit: int = 0,
        flags: int = 0,
    ) -> None:
        words = [o if isinstance(o, int) else self.tables.descriptors.add(o.descriptor) for o in operands]
        a, b, c = (*words, 0, 0, 0)[:3]
        self.streams.emit(
            core, queue, Instruction(mnemonic, a, b, c, unit, flags), self.node, reads=reads, writes=writes
        )


def _inner(place: Place, dims: Dims, index: int) -> tuple[Place, Dims]:
    """One index of the slowest axis."""
    return replace(place, base=place.base + index * dims[0][1]), dims[1:]
