"""Streams: what is written in program order has no race and ends in the same memory, whatever queue is first."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.backends.cim.program import (
    CoreCode,
    Descriptor,
    DeviceStage,
    Instruction,
    Interface,
    Port,
    Queue,
    Space,
)
from lpcompile.backends.cim.proofs import prove
from lpcompile.backends.cim.streams import CONST_BUFFER, Access, Streams
from lpcompile.backends.cim.tables import Tables
from tests.backends.cim.build import Builder, capacities
from tests.backends.cim.running import interpret, simulate

SIZE = (
    48  # of a buffer; buffer 0 is the port in DRAM, the others stand behind each other in the global buffer
)
BUFFERS, CORES = 3, 3
MACHINE = capacities(cores=CORES)
TABLE = bytes((5 * i + 3) % 256 for i in range(256))


class Sequential:
    """Writes instructions, and does them at once, one after the other."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.streams = Streams(CORES, self.tables)
        self.lut = self.tables.luts.add(TABLE)
        self.port = np.arange(SIZE, dtype=np.uint8)
        self.gb = np.zeros((BUFFERS - 1) * SIZE, np.uint8)
        self.lb = np.zeros((CORES, SIZE), np.uint8)

    def memory(self, core: int, access: Access) -> NDArray[np.uint8]:
        d = access.descriptor
        whole: NDArray[np.uint8] = {Space.DRAM: self.port, Space.GB: self.gb, Space.LB: self.lb[core]}[
            d.space
        ]
        ((count, step),) = d.dims
        return whole[d.base : d.base + (count - 1) * step + 1 : step]

    def copy(self, core: int, mnemonic: str, to: Access, source: Access) -> None:
        self.memory(core, to)[:] = self.memory(core, source).copy()
        self._emit(core, Queue.DMA, mnemonic, [to, source], reads=[source], writes=[to])

    def look(self, core: int, to: Access, source: Access) -> None:
        self.memory(core, to)[:] = np.frombuffer(TABLE, np.uint8)[self.memory(core, source)]
        self._emit(core, Queue.VEC, "VLUT", [to, source, self.lut], reads=[source], writes=[to])

    def _emit(
        self,
        core: int,
        queue: Queue,
        mnemonic: str,
        words: list[Access | int],
        *,
        reads: list[Access],
        writes: list[Access],
    ) -> None:
        numbers = [w if isinstance(w, int) else self.tables.descriptors.add(w.descriptor) for w in words]
        a, b, c = (*numbers, 0)[:3]
        self.streams.emit(core, queue, Instruction(mnemonic, a, b, c), "n", reads=reads, writes=writes)

    def check(self, seed: int) -> None:
        """Proofs, simulator, and the interpreter with queues in a random order."""
        number = self.tables.descriptors.add(Descriptor(Space.DRAM, "u8", 0, ((SIZE, 1),)))
        port = Port("x", "u8", (SIZE,), number, False)
        halt = (Instruction("HALT"),)
        program = replace(
            Builder(cores=CORES).program(),
            cores=tuple(CoreCode(halt, (self.streams.code(core),)) for core in range(CORES)),
            descriptors=tuple(self.tables.descriptors.entries),
            luts=(TABLE,),
            nodes=tuple(self.tables.nodes.entries),
            dram_bytes=SIZE,
            stages=(DeviceStage(0, (port,), (port,)),),
            inputs=(Interface("x", "uint8", (SIZE,)),),
            outputs=(Interface("x", "uint8", (SIZE,)),),
        )
        proofs = prove(program, MACHINE)
        assert proofs.hold, proofs.first
        words = [w for core in program.cores for w in core.run[0]]
        signals = Counter((w.a, w.b) for w in words if w.mnemonic == "SIG")
        waits = Counter(
            (w.a, core)
            for core, code in enumerate(program.cores)
            for w in code.run[0]
            if w.mnemonic == "WAIT"
        )
        assert signals == waits  # every token is taken, one at a time
        feeds = {"x": np.arange(SIZE, dtype=np.uint8)}
        rng = np.random.default_rng(seed)
        choose = lambda ready: ready[int(rng.integers(len(ready)))]  # noqa: E731
        np.testing.assert_array_equal(simulate(program, feeds, MACHINE)["x"], self.port)
        np.testing.assert_array_equal(interpret(program, feeds, MACHINE, choose)["x"], self.port)


def spread(rng: np.random.Generator, count: int) -> tuple[int, int]:
    """First byte and step of so many bytes somewhere in a buffer."""
    step = int(rng.integers(1, 4))
    return int(rng.integers(SIZE - (count - 1) * step)), step


def far(rng: np.random.Generator, count: int) -> Access:
    buffer = int(rng.integers(BUFFERS))
    first, step = spread(rng, count)
    space, base = (Space.DRAM, 0) if buffer == 0 else (Space.GB, (buffer - 1) * SIZE)
    return Access(Descriptor(space, "u8", base + first, ((count, step),)), buffer)


def near(rng: np.random.Generator, count: int) -> Access:
    first, step = spread(rng, count)
    return Access(Descriptor(Space.LB, "u8", first, ((count, step),)))


@pytest.mark.thorough
@settings(max_examples=60)
@given(st.integers(0, 100_000))
def test_random_work(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = Sequential()
    for core in range(CORES):
        s.copy(core, "LD", near(rng, 16), Access(Descriptor(Space.DRAM, "u8", 0, ((16, 1),)), 0))
    for _ in range(int(rng.integers(1, 25))):
        core, count, kind = int(rng.integers(CORES)), int(rng.integers(1, 14)), int(rng.integers(4))
        if kind == 0:
            s.copy(core, "LD", near(rng, count), far(rng, count))
        elif kind == 1:
            s.copy(core, "ST", far(rng, count), near(rng, count))
        elif kind == 2:
            s.copy(core, "MOV", far(rng, count), far(rng, count))
        else:
            s.look(core, near(rng, count), near(rng, count))
    s.copy(0, "ST", Access(Descriptor(Space.DRAM, "u8", 0, ((16, 1),)), 0), near(rng, 16))
    s.check(seed)


def test_disjoint_work_waits_for_nothing() -> None:
    s = Sequential()
    for core in range(CORES):
        part = Access(Descriptor(Space.DRAM, "u8", 16 * core, ((16, 1),)), 0)
        s.copy(core, "LD", Access(Descriptor(Space.LB, "u8", 0, ((16, 1),))), part)
        s.copy(core, "ST", part, Access(Descriptor(Space.LB, "u8", 0, ((16, 1),))))
    assert not any(w.mnemonic in ("SIG", "WAIT") for core in range(CORES) for w in s.streams.code(core))
    s.check(0)


def test_events_that_others_imply_are_left_out() -> None:
    s = Sequential()
    local = Access(Descriptor(Space.LB, "u8", 0, ((16, 1),)))
    port = Access(Descriptor(Space.DRAM, "u8", 0, ((16, 1),)), 0)
    s.copy(0, "LD", local, port)
    for _ in range(5):
        s.look(0, local, local)
    s.copy(0, "ST", port, local)
    assert sum(w.mnemonic == "WAIT" for w in s.streams.code(0)) == 2
    s.check(0)


def test_a_buffer_waits_for_those_whose_bytes_it_takes_over() -> None:
    tables = Tables()
    streams = Streams(2, tables)
    old = Access(Descriptor(Space.GB, "u8", 0, ((8, 1),)), 1)
    new = Access(Descriptor(Space.GB, "u8", 4, ((8, 1),)), 2)
    local = Access(Descriptor(Space.LB, "u8", 0, ((8, 1),)))
    streams.emit(0, Queue.DMA, Instruction("LD"), "a", reads=[old], writes=[local])
    streams.reuse(2, (1,))
    streams.emit(1, Queue.DMA, Instruction("ST"), "b", reads=[local], writes=[new])
    assert [w.mnemonic for w in streams.code(1)] == ["MARK", "WAIT", "ST", "HALT"]


def test_constants_are_waited_for_by_nobody() -> None:
    streams = Streams(2, Tables())
    const = Access(Descriptor(Space.DRAM, "u8", 0, ((8, 1),)), CONST_BUFFER)
    for core in range(2):
        local = Access(Descriptor(Space.LB, "u8", 0, ((8, 1),)))
        streams.emit(core, Queue.DMA, Instruction("LD"), "a", reads=[const], writes=[local])
    assert not any(w.mnemonic == "WAIT" for w in (*streams.code(0), *streams.code(1)))
