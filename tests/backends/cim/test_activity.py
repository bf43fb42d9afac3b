"""Events counted one by one, against the closed forms."""

import dataclasses

import numpy as np
import pytest

from lpcompile.backends.cim.activity import Executed, fixed_counts, mvm_counts, site_of, stirred
from lpcompile.backends.cim.events import Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.operands import elements_of, group_index, positions_of
from lpcompile.backends.cim.plane_counts import PlaneCounts
from lpcompile.backends.cim.program import Instruction, Space
from lpcompile.errors import ProgramError
from tests.backends.cim.synthetic import (
    ACC_OUT,
    CODES,
    DRAM_IN,
    GB_IN,
    HIDDEN,
    MVM,
    SIDE_W,
    Made,
    X,
    dense,
    image,
    rows_of,
)

MACHINE = MachineDescription.load("reference")


def counted(made: Made, mode: str, flags: int = 1, **fields: object) -> dict[Event, float]:
    word = dataclasses.replace(MVM, flags=flags)
    done = dataclasses.replace(Executed(0, word, "fc", 0, 1, on=made.on), **fields)  # type: ignore[arg-type]
    return events_of(made, done, mode)


def events_of(made: Made, done: Executed, mode: str) -> dict[Event, float]:
    site = site_of(MACHINE, made.program, done.instruction, 0, PlaneCounts(made.program))
    return mvm_counts(MACHINE, site, stirred(MACHINE, done, mode, site))


def brute_force(made: Made, block_rows: int = 15) -> dict[str, int]:
    """Every plane pair, every cell."""
    found = dict.fromkeys(("driven", "hits", "reads", "steps"), 0)
    for x in made.inputs:
        for i in range(4):
            plane = (x >> i) & 1
            found["driven"] += int(plane.sum())
            found["hits"] += int((plane[None, :, None] * made.bits).sum())
            for block in range(0, len(x), block_rows):
                found["reads"] += 4 * made.bits.shape[2]
                found["steps"] += int(plane[block : block + block_rows].any())
    return found


def test_exact_counts_equal_those_of_every_cell() -> None:
    made = dense()
    found, slow = counted(made, "exact"), brute_force(made)
    assert found[Event.HIT] == slow["hits"]
    assert found[Event.DRIVEN_ROW] == slow["driven"]
    assert found[Event.CROSSED_COLUMN] == 32 * slow["driven"]  # unused columns of the macro are crossed too
    assert found[Event.COLUMN_READ] == found[Event.CONVERSION] == found[Event.SHIFT_ADD] == slow["reads"]
    assert found[Event.COUNTED_ROW] == found[Event.CORRECTION] == 0


def test_stat_counts_come_close_to_exact_ones() -> None:
    made = dense(positions=400, rows=60)
    exact = counted(made, "exact")
    stat = counted(made, "stat", densities=tuple(made.on.sum(axis=0) / (400 * 60)))
    for event, n in exact.items():
        assert stat[event] == pytest.approx(n, rel=0.05)
    assert stat[Event.DRIVEN_ROW] == pytest.approx(exact[Event.DRIVEN_ROW], rel=1e-12)


def test_inverted_columns_cost_a_count_of_rows_and_a_correction() -> None:
    made = dense(rows=40, flagged=True)
    found = counted(made, "exact")
    sizes = np.array([15, 15, 10])
    flagged = made.flags.any(axis=(1, 2))
    assert flagged.any()
    assert found[Event.COUNTED_ROW] == 6 * 4 * sizes[flagged].sum()
    assert found[Event.CORRECTION] == 6 * made.flags.any(axis=1).sum()


def test_skipping_zero_planes() -> None:
    made = dense(positions=200)
    inputs = made.inputs * (np.random.default_rng(1).random(made.inputs.shape) < 0.05)
    sparse = dataclasses.replace(made, inputs=inputs)
    steps = brute_force(sparse)["steps"]
    everything = 200 * 4 * 3 * 32
    assert counted(sparse, "exact")[Event.CONVERSION] == everything
    assert counted(sparse, "exact", flags=3, steps=steps)[Event.CONVERSION] == steps * 32
    estimated = counted(sparse, "exact", flags=3)[Event.CONVERSION]
    assert estimated == pytest.approx(steps * 32, rel=0.05)
    densities = tuple(sparse.on.sum(axis=0) / inputs.size)
    assert counted(sparse, "stat", flags=3, densities=densities)[Event.CONVERSION] == pytest.approx(
        steps * 32, rel=0.05
    )


def test_one_plane_at_a_time_adds_up_to_all() -> None:
    made = dense()
    whole = counted(made, "exact")
    parts = [
        events_of(
            made,
            Executed(0, Instruction("MVMP", 0, X, ACC_OUT, unit=i), "fc", 0, 1, on=made.on[:, i : i + 1]),
            "exact",
        )
        for i in range(4)
    ]
    for event in (Event.HIT, Event.DRIVEN_ROW, Event.CONVERSION):
        assert sum(p[event] for p in parts) == whole[event]


def test_exact_needs_counts() -> None:
    with pytest.raises(ProgramError, match="carries no counts of its inputs"):
        counted(dense(), "exact", on=None)


def fixed(word: Instruction, core: int = 0, indices: tuple[int, ...] = ()) -> dict[Event, int]:
    counts = fixed_counts(MACHINE, dense().program, word, core, indices)
    assert counts.pop(Event.INSTRUCTION) == 1
    return {event: n for event, n in counts.items() if n}


def test_operands_of_an_mvm() -> None:
    assert fixed(MVM) == {Event.ACCUMULATION: 6 * 8 * 3, Event.LOCAL_READ: 240, Event.LOCAL_WRITE: 192}
    again = fixed(MVM, indices=(1,))  # INIT holds for the first repetition only
    assert again[Event.LOCAL_READ] == 240 + 192


def test_moves_cross_levels_and_the_mesh() -> None:
    load = Instruction("LD", a=X, b=DRAM_IN)
    assert fixed(load) == {Event.DRAM_BIT: 8 * 240, Event.LOCAL_WRITE: 240}
    assert fixed(load, core=3)[Event.BYTE_HOP] == 2 * 240  # core 3 stands at (1, 1)
    assert fixed(Instruction("ST", a=GB_IN, b=X), core=1) == {
        Event.LOCAL_READ: 240,
        Event.GLOBAL_WRITE: 240,
        Event.BYTE_HOP: 240,
    }
    assert fixed(Instruction("MOV", a=GB_IN, b=DRAM_IN), core=3) == {
        Event.DRAM_BIT: 1920,
        Event.GLOBAL_WRITE: 240,
    }
    assert fixed(Instruction("SEND", a=X, b=3), core=1) == {Event.LOCAL_READ: 240, Event.BYTE_HOP: 240}
    assert fixed(Instruction("RECV", a=X, b=1), core=3) == {Event.LOCAL_WRITE: 240}


def test_weights_are_written_bit_by_bit() -> None:
    found = fixed(Instruction("WPROG", a=0), core=1)
    assert found[Event.CELL_WRITE] == 4 * 40 * 8
    assert found[Event.DRAM_BIT] == 4 * 40 * 8 + 3 * 4 * 8  # and the flags of three blocks
    assert found[Event.BYTE_HOP] == 172


@pytest.mark.parametrize(
    ("word", "work"),
    [
        (Instruction("VRQ", a=CODES, b=ACC_OUT), {Event.REQUANTIZE: 48, Event.LOCAL_READ: 192}),
        (Instruction("VADDQ", a=CODES, b=CODES, c=CODES), {Event.REQUANTIZE: 96, Event.LOCAL_READ: 96}),
        (Instruction("VLUT", a=CODES, b=CODES), {Event.LOOKUP: 48, Event.LOCAL_READ: 48}),
        (Instruction("VOP", a=CODES, b=CODES, c=CODES), {Event.SIMPLE: 48, Event.LOCAL_READ: 96}),
        (
            Instruction("VOP", a=CODES, b=CODES, c=CODES, unit=2),
            {Event.MULTIPLY: 48, Event.LOCAL_READ: 96},
        ),
        (Instruction("FILL", a=CODES, b=3), {Event.SIMPLE: 48}),
    ],
)
def test_elementwise_work(word: Instruction, work: dict[Event, int]) -> None:
    assert fixed(word) == {**work, Event.LOCAL_WRITE: 48}


def test_sums_and_dense_products() -> None:
    assert fixed(Instruction("ACC", a=ACC_OUT, b=ACC_OUT)) == {
        Event.ACCUMULATION: 48,
        Event.LOCAL_READ: 384,
        Event.LOCAL_WRITE: 192,
    }
    found = fixed(Instruction("VMM", a=ACC_OUT, b=HIDDEN, c=SIDE_W, flags=1))
    assert found[Event.HP_MAC16] == 6 * 4 * 8  # the source holds 16 bits
    assert found[Event.LOCAL_READ] == 2 * 24 + 32


def test_sequencing_costs_its_fetch_alone() -> None:
    for op in ("SIG", "WAIT", "BAR", "WPAGE", "REPEAT", "HALT"):
        assert fixed(Instruction(op)) == {}


def test_an_unknown_instruction() -> None:
    with pytest.raises(ProgramError, match="there is no instruction 'VFFT'"):
        fixed(Instruction("VFFT"))


def test_windows_are_counted_as_the_description_says() -> None:
    source = image(8, 10, 3, kernel=3, stride=2, pad=1)
    assert positions_of(source) == 4 * 5
    assert elements_of(source) == 4 * 5 * 9 * 3
    assert positions_of(rows_of(7, 5, space=Space.GB)) == 7


def test_repeats_step_through_groups() -> None:
    made = dense()
    stepping = dataclasses.replace(made.program.groups[0], step=(1, 10))
    program = dataclasses.replace(made.program, groups=(stepping,))
    assert group_index(program, MVM, ()) == 0
    assert group_index(program, MVM, (2,)) == 2
    assert group_index(program, MVM, (2, 3)) == 32
