"""Every way in which a program does not hold together."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from lpcompile.backends.cim.program import (
    CoreCode,
    DeviceStage,
    HostStage,
    Instruction,
    Interface,
    Program,
    Space,
    Window,
)
from lpcompile.backends.cim.program_check import check_program, group_bytes
from lpcompile.errors import ProgramError
from tests.backends.cim.program_examples import HALT, example_program, programs

EXAMPLE = example_program()
I = Instruction  # noqa: E741
Change = Callable[[Program], Program]


def test_the_example_holds_together() -> None:
    check_program(EXAMPLE)


@pytest.mark.thorough
@settings(max_examples=30)
@given(programs())
def test_random_programs_hold_together(program: Program) -> None:
    check_program(program)


def test_bytes_of_a_group_by_hand() -> None:
    """4 planes of 27 x 8 bits, flags of 1 block; then 2 blocks, whose multipliers take 16 bytes more."""
    assert group_bytes(EXAMPLE.groups[0], 4) == 108 + 4
    assert group_bytes(EXAMPLE.groups[1], 4) == 108 + 8 + 16


def entry(table: str, at: int, /, **changes: Any) -> Change:
    def change(program: Program) -> Program:
        entries = list(getattr(program, table))
        entries[at] = replace(entries[at], **changes)
        changed: dict[str, Any] = {table: tuple(entries)}
        return replace(program, **changed)

    return change


def fields(**changes: Any) -> Change:
    return lambda program: replace(program, **changes)


def stream(*instructions: Instruction, boot: bool = False) -> Change:
    def change(program: Program) -> Program:
        core = program.cores[0]
        new = replace(core, boot=instructions) if boot else replace(core, run=(instructions,))
        return replace(program, cores=(new, *program.cores[1:]))

    return change


def port(side: str, **changes: Any) -> Change:
    stage = EXAMPLE.stages[0]
    assert isinstance(stage, DeviceStage)
    (old,) = getattr(stage, side)
    return entry("stages", 0, **{side: (replace(old, **changes),)})


def window(**changes: Any) -> Change:
    old = EXAMPLE.descriptors[2].window
    assert old is not None
    return entry("descriptors", 2, window=replace(old, **changes))


DIMS = ((4, 18), (6, 3), (3, 1))
CASES: list[tuple[Change, str, str]] = [
    (fields(machine=""), "machine", "a name is empty"),
    (fields(machine="a\ud800"), "machine", "no Unicode text"),
    (fields(machine_sha256="0" * 63), "machine", "not 64 hexadecimal digits"),
    (fields(machine_sha256="G" * 64), "machine", "not 64 hexadecimal digits"),
    (fields(nodes=("n",) * 70000), "nodes", "number of entries is 70000"),
    (fields(nodes=("n" * 5000,)), "nodes", "too long"),
    (fields(dram_bytes=-1), "program", "dram bytes is -1"),
    (fields(dram_bytes=2), "consts", "3 bytes of constants in a DRAM image of 2"),
    (fields(luts=(bytes(255),)), "lut 0", "255 bytes instead of 256"),
    (fields(cores=()), "stages", "device stages without a core"),
    (fields(cores=(CoreCode((HALT,), ()),)), "core 0", "0 run streams for 1 device stages"),
    (entry("descriptors", 0, space="disk"), "descriptor 0", "unknown space 'disk'"),
    (entry("descriptors", 0, dtype="f4"), "descriptor 0", "unknown dtype 'f4'"),
    (entry("descriptors", 0, dims=((1, 1),) * 6), "descriptor 0", "6 axes, more than 5"),
    (entry("descriptors", 0, dims=((0, 1),)), "descriptor 0", "count is 0"),
    (entry("descriptors", 3, dims=((1 << 20, 0),) * 2), "descriptor 3", "number of elements is"),
    (entry("descriptors", 3, dims=((2, 1 << 60),)), "descriptor 3", "stride is"),
    (entry("descriptors", 3, dims=((2, -5000),)), "descriptor 3", "before address 0"),
    (entry("descriptors", 3, levels=(1,) * 4), "descriptor 3", "4 levels, more than 3"),
    (entry("descriptors", 3, base=-1), "descriptor 3", "base is -1"),
    (entry("descriptors", 3, base=1 << 49), "descriptor 3", "base is"),
    (entry("descriptors", 2, bits=9), "descriptor 2", "bits is 9"),
    (entry("descriptors", 3, bits=4), "descriptor 3", "bits of a i32 operand"),
    (entry("descriptors", 3, zero=1 << 31), "descriptor 3", "zero is"),
    (entry("descriptors", 4, requant=2), "descriptor 4", "requant is 2, outside -1 to 1"),
    (window(kernel=(3,)), "descriptor 2", "another number of axes"),
    (entry("descriptors", 2, window=Window((), (), (), (), ())), "descriptor 2", "another number of axes"),
    (window(kernel=(3, 0)), "descriptor 2", "window kernel is 0"),
    (window(strides=(0, 1)), "descriptor 2", "window stride is 0"),
    (window(begin=(-1, 0)), "descriptor 2", "padding is -1"),
    (window(pad_value=256), "descriptor 2", "pad value is 256"),
    (window(kernel=(7, 3)), "descriptor 2", "the window is larger"),
    (window(begin=(50000, 50000)), "descriptor 2", "number of gathered elements"),
    (entry("plane_sets", 0, coefficients=()), "plane set 0", "number of planes is 0"),
    (entry("plane_sets", 0, coefficients=(1, 3)), "plane set 0", "coefficient 3 is no signed power"),
    (entry("plane_sets", 0, coefficients=(0,)), "plane set 0", "coefficient 0 is no signed power"),
    (entry("groups", 0, planes=2), "group 0", "planes is 2, outside 0 to 1"),
    (entry("groups", 0, rows=0), "group 0", "rows is 0"),
    (entry("groups", 0, row0=-1), "group 0", "row0 is -1"),
    (entry("groups", 0, block_rows=26), "group 0", "2 blocks of rows on 1 macros of 1 pages"),
    (entry("groups", 0, offset=133), "group 0", "bytes 133 to 245 of 244"),
    (entry("groups", 0, offset=-1), "group 0", "bytes -1"),
    (entry("groups", 0, step=(1, 1, 1, 1)), "group 0", "4 levels"),
    (entry("requants", 0, m=(1, 2)), "requant 0", "2 values of m"),
    (entry("requants", 0, b=()), "requant 0", "0 values of b"),
    (entry("requants", 0, m=(1 << 15,)), "requant 0", "m is 32768"),
    (entry("requants", 0, b=(1 << 63,)), "requant 0", "b is"),
    (entry("requants", 0, k=(63,)), "requant 0", "k is 63, outside 0 to 62"),
    (entry("requants", 0, low=256), "requant 0", "low 256 is above high 255"),
    (entry("requants", 0, zero=1 << 31), "requant 0", "zero is"),
    (stream(), "core 0 run 0", "does not end with HALT"),
    (stream(I("NOP")), "core 0 run 0", "does not end with HALT"),
    (stream(HALT, HALT), "core 0 run 0, word 0", "HALT before the end"),
    (stream(I("REPEAT", 2, 1), HALT), "core 0 run 0, word 0", "REPEAT reaches beyond"),
    (stream(I("REPEAT", 2, 2), I("REPEAT", 2, 2), I("NOP"), I("NOP"), HALT), "word 1", "REPEAT reaches beyond"),
    (stream(*(I("REPEAT", 2, 4 - i) for i in range(4)), I("NOP"), HALT), "word 3", "REPEAT more than 3 deep"),
    (stream(*(I("REPEAT", 65535, 3 - i) for i in range(3)), I("NOP"), HALT), "core 0 run 0", "issued words"),
    (stream(I("REPEAT", 0, 1), I("NOP"), HALT), "word 0", "operand n is 0"),
    (stream(I("MVX"), HALT), "word 0", "no instruction is called 'MVX'"),
    (stream(I("LD", 7, 0), HALT), "word 0", "LD: descriptor is 7, outside 0 to 6"),
    (stream(I("MVM", 2, 2, 3), HALT), "word 0", "MVM: group is 2"),
    (stream(I("VRQ", 4, 3, 2), HALT), "word 0", "VRQ: requant is 2"),
    (stream(I("VRQ", 2, 3, 0), HALT), "word 0", "requant 0 is for 8 channels, not (3,)"),
    (stream(I("VADDQ", 3, 3, 3), HALT), "word 0", "descriptor 3 names no requant"),
    (stream(I("VLUT", 4, 4, 2), HALT), "word 0", "VLUT: lut is 2"),
    (stream(I("MARK", 3), HALT), "word 0", "MARK: node is 3"),
    (stream(I("SEND", 4, 2, 0), HALT), "word 0", "SEND: core is 2"),
    (stream(I("SIG", 0, 2), HALT), "word 0", "SIG: core is 2"),
    (stream(I("SIG", 0, 1), HALT), "run 0", "event 0 of core 1: 1 signals too many"),
    (stream(I("WAIT", 5, 3), HALT, boot=True), "boot", "event 5 of core 0: 3 signals are missing"),
    (stream(I("REPEAT", 3, 1), I("SIG", 5, 0), I("WAIT", 5, 2), HALT), "run 0", "1 signals too many"),
    (stream(I("WPROG", 0, 1), HALT, boot=True), "word 0", "WPROG of page 1 for a group that starts at page 0"),
    (stream(I("WPAGE", 1, 2), HALT), "word 0", "WPAGE: page is 2, outside 0 to 1"),
    (stream(I("REPEAT", 3, 1), I("MVM", 0, 2, 3), HALT), "word 1", "group of the last step is 2"),
    (stream(I("REPEAT", 30, 1), I("ST", 1, 4), HALT), "word 1", "descriptor 1 reaches bytes 1024 to 2464 of 2048"),
    (fields(dram_bytes=1300), "stage 0, port 'mid; dle'", "reaches beyond the DRAM image"),
    (entry("stages", 0, index=1), "stages", "do not use every run stream once"),
    (port("inputs", name="imago"), "stage 0", "'imago' is neither an input nor made"),
    (port("inputs", dtype="u16"), "port 'image'", "unknown dtype 'u16'"),
    (port("inputs", dtype="i32"), "port 'image'", "descriptor 0 is u8 in dram"),
    (port("inputs", descriptor=5), "port 'image'", "descriptor 5 is u8 in lb"),
    (port("inputs", descriptor=9), "port 'image'", "descriptor is 9"),
    (port("inputs", batch_axis=False), "port 'image'", "has counts (6, 6, 3), not (1, 6, 6, 3)"),
    (port("inputs", shape=(2, 6, 6, 3)), "port 'image'", "the batch axis of one sample is 1"),
    (port("outputs", name="image"), "stage 0", "'image' is made twice"),
    (fields(inputs=(Interface("image", "float32", ("N", 6, 6, 3)),)), "port 'image'", "takes uint8, but"),
    (fields(inputs=(Interface("image", "uint8", ("N", 6, 5, 3)),)), "port 'image'", "takes shape"),
    (fields(inputs=EXAMPLE.inputs * 2), "inputs", "'image' stands there twice"),
    (fields(inputs=(Interface("image", "", ()),)), "inputs", "has no element type"),
    (fields(inputs=(Interface("image", "flobt32", ()),)), "inputs", "has no element type"),
    (fields(outputs=(Interface("w", "int8", ()),)), "outputs", "no stage makes 'w'"),
    (fields(outputs=(Interface("image", "int8", ("N", 6, 6, 3)),)), "outputs", "with another type or shape"),
    (fields(outputs=(Interface("y", "int8", (-1,)),)), "outputs", "size of 'y' is -1"),
    (entry("stages", 1, inputs=("q",)), "stage 1", "'q' is neither an input nor made"),
    (entry("stages", 1, reasons={"a": "b" * 5000}), "stage 1", "too long"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "where", "message"), CASES, ids=[case[2] for case in CASES])
def test_what_does_not_hold_together(change: Change, where: str, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)) as caught:
        check_program(change(EXAMPLE))
    assert caught.value.where is not None
    assert caught.value.where.endswith(where)
    assert caught.value.hint


def test_levels_reach_as_far_as_the_repeats_around_them() -> None:
    body = (I("REPEAT", 2, 3), I("REPEAT", 5, 1), I("ST", 1, 4), I("NOP"), HALT)
    check_program(stream(*body)(EXAMPLE))  # 5 steps of 48 bytes by the inner one, none by the outer


def test_a_program_may_run_on_the_host_alone() -> None:
    host = HostStage(b"m", ("image",), ("y", "z"))
    check_program(replace(EXAMPLE, cores=(), stages=(host,)))


def test_gb_is_bounded_by_the_machine_alone() -> None:
    check_program(entry("descriptors", 3, space=Space.GB, base=1 << 40)(EXAMPLE))
