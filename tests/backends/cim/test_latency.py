"""Cycles of instructions, by hand."""

import dataclasses

import pytest

from lpcompile.backends.cim.latency import cycles, step_cycles
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import Instruction
from tests.backends.cim.synthetic import ACC_OUT, CODES, DRAM_IN, GB_IN, HIDDEN, MVM, SIDE_W, X, dense

MACHINE = MachineDescription.load("reference")
PROGRAM = dense().program  # 6 positions, 40 rows in 3 blocks on 2 macros, 8 outputs of 4 planes


def test_an_mvm_by_hand() -> None:
    # 100 MHz: 10 ns of settling, then 8 columns a converter (32 columns, 4 converters) of 5 ns: 50 ns = 5 cycles
    assert step_cycles(MACHINE, 32) == 5
    assert step_cycles(MACHINE, 9) == 3  # 10 + 3 * 5 = 25 ns
    # two rounds, since 3 blocks share 2 macros; one cycle of page switch each; two cycles for the last sum
    assert cycles(MACHINE, PROGRAM, MVM, 0) == 6 * 2 * (4 * 5 + 1) + 2
    assert cycles(MACHINE, PROGRAM, dataclasses.replace(MVM, mnemonic="MVMP"), 0) == 6 * 2 * (5 + 1) + 2


def test_zero_planes_that_are_skipped_take_no_time() -> None:
    everything = 6 * 4 * 3
    assert cycles(MACHINE, PROGRAM, MVM, 0, steps=everything) == cycles(MACHINE, PROGRAM, MVM, 0)
    assert cycles(MACHINE, PROGRAM, MVM, 0, steps=everything // 2) == 24 * 5 + 12 + 2


def test_sample_and_hold_hides_the_shorter_part() -> None:
    isaac = MachineDescription.load("isaac-ce")
    assert step_cycles(isaac, 128) == 128  # 100 ns at 1280 MHz, settling and conversion alike
    digital = MachineDescription.load("tsmc22-dcim")
    assert step_cycles(digital, 256) == step_cycles(digital, 1) == 1


@pytest.mark.parametrize(
    ("word", "core", "expected"),
    [
        # 240 bytes: DRAM gives 8 bytes a cycle, as the local port does, after 60 ns
        (Instruction("LD", a=X, b=DRAM_IN), 0, 30 + 6),
        (Instruction("LD", a=X, b=DRAM_IN), 3, 30 + 6 + 2 * 2),
        (Instruction("LD", a=X, b=GB_IN), 1, 30 + 2),
        (Instruction("MOV", a=GB_IN, b=DRAM_IN), 3, 30 + 6),
        (Instruction("SEND", a=X, b=3), 1, 30 + 2),
        (Instruction("RECV", a=X, b=1), 3, 30),
        # 48 elements on 4 lanes: 12; 192 + 48 bytes on a port of 8: 30
        (Instruction("VRQ", a=CODES, b=ACC_OUT), 0, 30),
        (Instruction("VLUT", a=CODES, b=CODES), 0, 12),
        # 192 MACs, 4 a cycle, 16-bit operands at half the rate
        (Instruction("VMM", a=ACC_OUT, b=HIDDEN, c=SIDE_W, flags=1), 0, 96),
        # 172 bytes of planes and flags after 60 ns; writing 30 rows takes 30 cycles
        (Instruction("WPROG", a=0), 0, 30),
        (Instruction("WPAGE", a=0), 0, 1),
        (Instruction("SIG"), 0, 0),
    ],
)
def test_others_by_hand(word: Instruction, core: int, expected: int) -> None:
    assert cycles(MACHINE, PROGRAM, word, core) == expected
