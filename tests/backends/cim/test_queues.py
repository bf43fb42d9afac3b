"""Queues, events, deadlocks, races, and the cycles they take."""

import time
from dataclasses import replace

import numpy as np
import pytest

from lpcompile.backends.cim.program import Descriptor, Instruction, Program, Space
from lpcompile.backends.cim.simulator.capacities import Limits
from lpcompile.backends.cim.simulator.operands import Operands
from lpcompile.backends.cim.simulator.ordering import order_of
from lpcompile.backends.cim.simulator.overlap import Footprint, footprint, overlap
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.backends.cim.simulator.streams import unroll
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.errors import ProgramError
from tests.backends.cim.build import Builder, capacities, op
from tests.backends.cim.running import simulate

CIM, VEC, DMA, NOC = range(4)


class Slow:
    """FILL takes 10 cycles, LD and ST 4, the rest nothing."""

    def cycles(self, core: int, instruction: Instruction, program: Program, work: Work) -> int:
        return {"FILL": 10, "LD": 4, "ST": 4}.get(instruction.mnemonic, 0)


def two_buffers() -> tuple[Builder, int, int, int]:
    b = Builder()
    return b, b.desc((8,)), b.desc((8,)), b.desc((8,), space=Space.GB)


def cycles(b: Builder) -> int:
    return Simulator(b.program(), capacities(), timing=Slow()).run({}).cycles


def test_queues_work_beside_each_other() -> None:
    b, x, y, g = two_buffers()
    b.run[0] = [op("FILL", x, 1), op("LD", y, g), op("LD", y, g), op("FILL", x, 2)]
    assert cycles(b) == 20


def test_bar_waits_for_all_queues() -> None:
    b, x, y, g = two_buffers()
    b.run[0] = [op("FILL", x, 1), op("LD", y, g), op("BAR"), op("LD", y, g), op("BAR"), op("FILL", x, 2)]
    assert cycles(b) == 10 + 4 + 10


def test_events_order_two_queues_and_no_more() -> None:
    b, x, y, g = two_buffers()
    b.run[0] = [
        op("FILL", x, 1),
        op("SIG", 5, 0, unit=VEC),
        op("FILL", y, 1),
        op("WAIT", 5, 1, unit=DMA),
        op("ST", g, x),
    ]
    assert cycles(b) == 20
    trace = Simulator(b.program(), capacities(), timing=Slow(), trace=True).run({}).runs[-1].trace
    assert [
        (e.instruction.mnemonic, e.start, e.end) for e in trace if e.instruction.mnemonic in ("ST", "FILL")
    ] == [
        ("FILL", 0, 10),
        ("FILL", 10, 20),
        ("ST", 10, 14),
    ]


def test_double_buffering_with_events_is_free_of_races_and_overlaps() -> None:
    b = Builder()
    x = b.feed("x", (6, 8))
    port = b.inputs[0].descriptor
    b.run[0] = []
    strip = b.again(port, dims=((8, 1),), levels=(8, 24))
    buffer = b.desc((3, 8))
    into = b.again(buffer, dims=((8, 1),), levels=(8,))
    total = b.desc((8,), "i32")
    wide = b.desc((8,), "i32")
    free, full = 1, 2
    b.run[0] = [
        op("FILL", total, 0),
        *(op("SIG", free, 0, unit=VEC) for _ in range(3)),
        op("REPEAT", 2, 11),
        op("REPEAT", 3, 3),
        op("WAIT", free, 1, unit=DMA),
        op("LD", into, strip),
        op("SIG", full, 0, unit=DMA),
        op("REPEAT", 3, 5),
        op("WAIT", full, 1, unit=VEC),
        op("VCVT", wide, into),
        op("ACC", total, wide),
        op("SIG", free, 0, unit=VEC),
        op("NOP"),
        op("NOP"),
        op("WAIT", free, 3, unit=DMA),
    ]
    b.fetch("y", total)
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    found = Simulator(b.program(), capacities()).run({"x": values})
    np.testing.assert_array_equal(found.outputs["y"], values.sum(axis=0))
    b.run[0][1:4] = [op("SIG", free, 0, unit=VEC)] * 4  # one buffer too many
    b.run[0][17] = op("WAIT", free, 4, unit=DMA)
    with pytest.raises(ProgramError, match=r"a race: .*(VCVT).*(LD)"):
        simulate(b.program(), {"x": values})
    del x


@pytest.mark.parametrize("gap", [False, True])
def test_unordered_writes_are_races_unless_they_miss_each_other(gap: bool) -> None:
    b = Builder(cores=2)
    both = b.desc((4, 8), space=Space.GB)
    base = b.descriptors[both].base
    left = b.again(both, dims=((4, 8), (4, 1)))
    right = b.again(both, base=base + (4 if gap else 3), dims=((4, 8), (4, 1)))
    local = b.desc((4, 4))
    b.run[0] = [op("ST", left, local)]
    b.run[1] = [op("ST", right, local)]
    if gap:
        simulate(b.program(), {})
        return
    with pytest.raises(ProgramError, match=r"race: bytes .* of gb: core 0.* and core 1.* are not ordered"):
        simulate(b.program(), {})
    b.run[0].append(op("SIG", 0, 1, unit=DMA))
    b.run[1].insert(0, op("WAIT", 0, 1, unit=DMA))
    simulate(b.program(), {})
    b.run[1][0] = op("WAIT", 0, 1, unit=VEC)
    with pytest.raises(ProgramError, match="race"):
        simulate(b.program(), {})


def test_a_message_orders_what_lies_before_it() -> None:
    b = Builder(cores=2)
    shared, local, note = b.desc((8,), space=Space.GB), b.desc((8,)), b.desc((1,))
    b.run[0] = [
        op("ST", shared, local),
        op("SIG", 0, 0, unit=DMA),
        op("WAIT", 0, 1, unit=NOC),
        op("SEND", note, 1, 0),
    ]
    b.run[1] = [op("RECV", note, 0, 0), op("BAR"), op("LD", local, shared)]
    simulate(b.program(), {})
    b.run[0] = [op("ST", shared, local), op("SEND", note, 1, 0)]
    with pytest.raises(ProgramError, match="race"):
        simulate(b.program(), {})


def join(throttled: bool) -> Builder:
    """Cores 1 and 2 each write their half twice; core 0 reads both after two signals."""
    b = Builder(cores=3)
    b.desc((16,), space=Space.GB)
    halves = [b.desc((8,), space=Space.GB, base=base) for base in (0, 8)]
    whole, local, half = b.desc((16,), space=Space.GB, base=0), b.desc((16,)), b.desc((8,))
    for core, place in zip((1, 2), halves, strict=True):
        b.run[core] = [op("ST", place, half), op("SIG", 0, 0, unit=DMA)]
        b.run[core] += [op("WAIT", 1, 1, unit=DMA)] if throttled else []
        b.run[core] += [op("ST", place, half) if throttled else op("NOP"), op("SIG", 0, 0, unit=DMA)]
    b.run[0] = [op("WAIT", 0, 2, unit=DMA), op("LD", local, whole)]
    if throttled:
        b.run[0] += [op("SIG", 1, 1, unit=DMA), op("SIG", 1, 2, unit=DMA), op("WAIT", 0, 2, unit=DMA)]
        b.run[0] += [op("LD", local, whole)]
    else:
        b.run[0] += [op("WAIT", 0, 2, unit=DMA)]
    return b


def test_an_event_with_several_senders_orders_what_it_must() -> None:
    simulate(join(throttled=True).program(), {})
    with pytest.raises(ProgramError, match="race"):  # both signals may come from one core
        simulate(join(throttled=False).program(), {})


def test_waits_that_compete_are_found() -> None:
    b = Builder()
    b.run[0] = [op("SIG", 0, 0, unit=CIM), op("SIG", 0, 0, unit=CIM)]
    b.run[0] += [op("WAIT", 0, 1, unit=VEC), op("WAIT", 0, 1, unit=DMA)]
    assert order_of(unroll(b.program(), 0, Limits())).contended == [(0, 0)]
    b.run[0].insert(3, op("BAR"))
    assert order_of(unroll(b.program(), 0, Limits())).contended == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([op("WAIT", 0, 1, unit=VEC)], "waits for ever: core 0, run 0, instruction 0 \\(WAIT\\)"),
        ([op("SIG", 0, 0, unit=VEC)], "ends with event 0 of core 0 at 1"),
        ([op("RECV", 0, 0, 1)], "waits for ever"),
        ([op("SEND", 0, 0, 1)], "was not received"),
        (
            [op("WAIT", 0, 1, unit=VEC), op("SIG", 1, 0, unit=VEC), op("WAIT", 1, 1), op("SIG", 0, 0)],
            "waits for ever",
        ),
        ([op("BAR"), op("WAIT", 0, 2, unit=DMA), op("BAR"), op("SIG", 0, 0)], "waits for ever"),
        ([op("SIG", 0, 7, unit=VEC)], "there is no core 7"),
    ],
)
def test_what_waits_for_ever_or_is_left_over_is_an_error(words: list[Instruction], message: str) -> None:
    b = Builder()
    b.desc((4,))
    b.run[0] = words
    with pytest.raises(ProgramError, match=message):
        simulate(b.program(), {})


def test_errors_name_core_instruction_and_node() -> None:
    b = Builder(cores=2)
    b.nodes = ["pool_1"]
    outside = b.desc((4, 4), base=capacities().lb_bytes - 15)
    b.run[1] = [op("MARK", 0), op("REPEAT", 2, 1), op("FILL", outside, 0)]
    with pytest.raises(ProgramError) as caught:
        simulate(b.program(), {})
    assert caught.value.where == "core 1, run 0, instruction 2 (FILL) at (0,), node 'pool_1'"
    assert "touches bytes 65521 to 65537 of lb, which has 65536" in caught.value.message


def descriptor(base: int, *dims: tuple[int, int], dtype: str = "u8") -> Descriptor:
    return Descriptor(Space.LB, dtype, base, dims)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (descriptor(-1, (4, 1)), "touches bytes -1"),
        (descriptor(8, (4, -4)), "touches bytes -4"),
        (descriptor(0, (0, 1)), "empty axis"),
        (descriptor(0, (1 << 20, 0), (1 << 20, 0)), "more than the limit"),
        (descriptor(0, (4, 0)), "writes an element twice"),
        (descriptor(0, (4, 1), dtype="i32"), "writes an element twice"),
        (descriptor(0, (4, 4), (5, 1)), "writes an element twice"),
        (descriptor(0, (4, 1), dtype="f32"), "no dtype"),
        (descriptor(0, *((1, 1),) * 6), "more than 5 axes"),
        (replace(descriptor(0, (4, 1)), levels=(1 << 40,)), "touches bytes"),
    ],
)
def test_descriptors_are_checked_before_memory_is_touched(changed: Descriptor, message: str) -> None:
    b = Builder()
    b.descriptors.append(changed)
    b.run[0] = [op("REPEAT", 2, 1), op("FILL", 0, 1)]
    with pytest.raises(ProgramError, match=message):
        simulate(b.program(), {})
    with pytest.raises(ProgramError, match=message):
        simulate(b.program(), {}, check_races=False)


def nest(count: int, *words: Instruction) -> list[Instruction]:
    n = len(words)
    return [op("REPEAT", count, n + 2), op("REPEAT", count, n + 1), op("REPEAT", count, n), *words]


@pytest.mark.thorough
def test_hostile_programs_end_soon() -> None:
    start = time.process_time()
    b = Builder()
    place = b.desc((4,))
    for words, message in (
        (nest(65535, op("FILL", place, 1)), "more than the limit of 2097152"),
        (nest(65535, op("NOP")), "more than the limit"),
        ([op("REPEAT", 2, 4), *nest(2, op("NOP"))], "nest deeper than 3"),
        ([op("REPEAT", 2, 9), op("NOP")], "leaves its stream"),
        ([op("REPEAT", 0, 1), op("NOP")], "is empty"),
        ([op("REPEAT", 2, 2), op("REPEAT", 2, 2), op("NOP"), op("NOP")], "leaves its stream"),
        ([op("HALT"), op("NOP")], "HALT stands before the end"),
        ([op("JUMP")], "no instruction 'JUMP'"),
        ([op("MARK", 3)], "names no node"),
        ([op("SIG", 0, 0, unit=9)], "names no queue"),
        ([op("FILL", 99)], "no descriptor 99"),
        ([op("REPEAT", 60000, 1), op("SEND", b.desc((16384,)), 0, 1)], "bytes sent and not received"),
    ):
        b.run[0] = words
        with pytest.raises(ProgramError, match=message):
            simulate(b.program(), {})
    assert time.process_time() - start < 5


def test_limits_of_cycles_and_sizes() -> None:
    b = Builder()
    b.run[0] = [op("REPEAT", 100, 1), op("FILL", b.desc((4,)), 1)]
    with pytest.raises(ProgramError, match="does not end within 50 cycles"):
        Simulator(b.program(), capacities(), limits=Limits(cycles=50)).run({})
    for changes, message in (({"cores": 0}, "uses 1 cores"), ({"dram_bytes": -1}, "DRAM image")):
        with pytest.raises(ProgramError, match=message):
            Simulator(b.program(), capacities(**changes))


def bytes_of(d: Descriptor) -> set[int]:
    size = {"u8": 1, "i32": 4}[d.dtype]
    return {
        d.base + sum(i * s for i, (_, s) in zip(index, d.dims, strict=True)) + k
        for index in np.ndindex(*d.counts)
        for k in range(size)
    }


def test_overlap_is_never_missed_and_exact_for_common_patterns() -> None:
    rng = np.random.default_rng(3)
    b = Builder()
    operands = Operands(b.program(), capacities(), Limits())
    exact = 0
    for _ in range(3000):
        pieces = []
        for _ in range(2):
            dims = tuple(
                (int(rng.integers(1, 5)), int(s))
                for s in rng.choice([16, 16, 4, 64, 5, -16], rng.integers(0, 3))
            )
            pieces.append(descriptor(int(rng.integers(300, 340)), *dims, (int(rng.integers(1, 5)), 1)))
        prints: list[Footprint] = [footprint(operands.checked(d, d.base, writes=False)) for d in pieces]
        truth = bool(bytes_of(pieces[0]) & bytes_of(pieces[1]))
        said = overlap(*prints)
        assert said or not truth
        exact += said == truth
    assert exact > 2900
