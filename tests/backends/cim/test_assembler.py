"""Assembler text: round trip, compactness, and errors that name the line."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.backends.cim.assembler import disassemble, disassemble_core
from lpcompile.backends.cim.assembly_parser import assemble
from lpcompile.backends.cim.assembly_syntax import (
    instruction_text,
    numbers,
    parsed_instruction,
    quoted,
    run_lengths,
    unquoted,
    words_of,
    wrapped,
)
from lpcompile.backends.cim.container import to_bytes
from lpcompile.backends.cim.isa import isa
from lpcompile.backends.cim.program import Instruction, Program
from lpcompile.errors import ProgramError
from tests.backends.cim.program_examples import NAMES, example_program, large_program, programs
from tests.backends.cim.test_isa import instructions

VERSION = isa().version
EXAMPLE = example_program()
FULL = disassemble(EXAMPLE, full=True)
SHORT = disassemble(EXAMPLE)


@pytest.mark.thorough
@settings(max_examples=30)
@given(programs())
def test_assembling_undoes_disassembling(program: Program) -> None:
    text = disassemble(program, full=True)
    assert assemble(text) == program
    assert disassemble(assemble(text), full=True) == text
    short = disassemble(program)
    assert text.startswith(short)
    assert assemble(short, data=program) == program


def test_bytes_survive_the_text() -> None:
    assert to_bytes(assemble(FULL)) == to_bytes(EXAMPLE)


def test_what_a_reader_sees() -> None:
    for line in (
        "machine tiny",
        'input image uint8 "N" 6 6 3',
        "output y float32 \"N\" ? 10",
        "planes 0 int4 1 2 4 -8",
        "  k 20*8",
        "desc 2 lb u8 0x0 4:18 6:3 3:1 levels=18 kernel=3,3 begin=1,1 end=1,0 pad=114 bits=7 zero=114",
        "group 1 planes=0 rows=0+27/14 outputs=8 offset=112 macros=3+1x1 pages=0+2 mult clipped",
        "  MARK n0  ; conv1",
        "  SIG.dma e4, c0",
        "    MVM g0, d2, d3 INIT SKIPZ",
        "      VOP.max d4, d4, d4",
    ):  # fmt: skip
        assert f"\n{line}\n" in SHORT, line
    assert "data weights" in FULL
    assert "data" not in SHORT


def test_lines_are_short_and_ascii() -> None:
    for text in (FULL, disassemble(large_program(500, 500, 2000))):
        assert text.isascii()
        assert max(map(len, text.split("\n"))) <= 100


def test_one_core_alone() -> None:
    text = disassemble_core(EXAMPLE, 1)
    assert text == "core 1 boot\n  HALT\ncore 1 run 0\n  HALT\n"
    with pytest.raises(ProgramError, match="there is no core 2") as caught:
        disassemble_core(EXAMPLE, 2)
    assert caught.value.hint == "cores are 0 to 1"


def test_comments_and_blanks_are_ignored() -> None:
    lines = SHORT.split("\n")
    noisy = "\r\n".join(
        f'{line.replace("  ", "   ")}  ; MVM "' if line.count('"') == 0 else line for line in lines
    )
    noisy = noisy.replace("\\  ; MVM", "\\   ; MVM")
    assert assemble("; a comment\n\n" + noisy, data=EXAMPLE) == EXAMPLE


@given(instructions())
def test_instructions_as_text(instruction: Instruction) -> None:
    assert parsed_instruction(words_of(f"  {instruction_text(instruction)} ; n")) == instruction


@given(st.lists(NAMES, max_size=5))
def test_names_as_words(names: list[str]) -> None:
    words = words_of(" ".join(map(quoted, names)) + " ; no name")
    assert [unquoted(word) for word in words] == names


@given(st.lists(st.integers(-3, 3), max_size=40))
def test_runs(values: list[int]) -> None:
    assert numbers(run_lengths(values)) == tuple(values)
    joined = " ".join(line.removesuffix("\\") for line in wrapped(["m", *run_lengths(values)]))
    assert joined.split() == ["m", *run_lengths(values)]


def test_a_text_without_data_asks_for_them() -> None:
    with pytest.raises(ProgramError) as caught:
        assemble(SHORT, where="p.lpcasm")
    assert str(caught.value) == "p.lpcasm:6: the bytes of 'weights' are not in the text"
    assert "--data" in (caught.value.hint or "")
    other = replace(EXAMPLE, weights=EXAMPLE.weights[:-1] + b"?")
    with pytest.raises(ProgramError, match="the bytes of 'weights' are not in the text"):
        assemble(SHORT, data=other)


def line_number(text: str, start: str) -> int:
    return next(i for i, line in enumerate(text.split("\n"), 1) if line.strip().startswith(start))


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("lpcasm 1", "model x", "this is no assembler text", "the first line is 'lpcasm 1'"),
        ("lpcasm 1", "lpcasm 2", "version 2 of lpcasm, and this lpcompile knows 1", "with this version"),
        (f"isa {VERSION}", "isa 77", "version 77 of isa", "with this version"),
        ("dram 2048", "dram many", "'many' is no number", "decimal"),
        ("dram 2048", "dram 99999999999999999999", "is no number", "decimal"),
        ("machine tiny", "machine", "1 words where the form is another", "write machine VALUE"),
        ("machine tiny", "machine \"tiny", "a quote is not closed", 'end the name with "'),
        ("machine tiny", 'machine "a\\q"', 'is no name', "JSON"),
        (f"isa {VERSION}", "machine tiny", "'machine' stands there twice", "keep one"),
        ("consts 3", "weights 3", "'weights' stands there twice", "keep one"),
        ("consts 3", "const 3", "unknown 'const'", "did you mean 'consts'?"),
        ("input image", "inptu image", "unknown 'inptu'", "did you mean 'input'?"),
        ("output z", "output z ; ", "1 words where the form is another", "write input NAME TYPE"),
        ("node 1", "node 2", "node 2 where node 1 follows", "number the entries from 0"),
        ("planes 0", "planes", "'int4' is no number", "decimal"),
        ("lut 0 00", "lut 0 0g", "no table: non-hexadecimal", "256 bytes"),
        ("  k 20*8", "  k 20*9999999999", "makes the list longer", "shorten"),
        ("  k 20*8", "  b 1", "'b' stands below no requant, or twice", "once below each"),
        ("requant 1 zero=0", "requant 1 zerro=0", "unknown 'zerro=0'", "did you mean 'zero'?"),
        ("desc 0 dram", "desc 0 dran", "no space is called 'dran'", "did you mean 'dram'?"),
        ("desc 0 dram u8 0x40", "desc 0 dram u8 0x40 1 ", "'' is no number", "decimal"),
        ("desc 2 lb u8 0x0", "desc 2 lb u8 0x0 kernal=3,3", "unknown 'kernal=3,3'", "'kernel'"),
        ("desc 3 lb i32 0x1000", "desc 3 lb i32 0x1000 pad=3", "'pad=' without a window", "add kernel="),
        ("group 0 planes=0", "group 0", "'planes=' is missing", "planes= rows= outputs="),
        ("group 0 planes=0 rows=0+27/31", "group 0 planes=0 rows=27", "cannot read 'rows=27'", "ROW0+ROWS"),
        ("group 0 planes=0", "group 0 planes=0 planes=0", "'planes' stands there twice", "keep one"),
        ("stage 0 device 0", "stage 0 divice 0", "no kind of stage is called 'divice'", "device or host"),
        ("  in image u8 d0", "  in image u8 0", "'0' is no descriptor", "write d and its number"),
        ("core 1 run 0", "out q", "this stands below no stage", "write 'stage 0 device 0' above it"),
        ("  why TopK_1", "  why A", "twice for one node", "keep one reason a node"),
        ("core 1 boot", "core 2 boot", "streams are out of order", "core 0 boot"),
        ("  MVM g0", "  MVVM g0", "no instruction is called 'MVVM'", "did you mean 'MVM'?"),
        ("  MVM g0", "  mvm g0", "no instruction is called 'mvm'", "did you mean 'MVM'?"),
        ("  MVM g0", "  MVM d0", "operand g is a group, not 'd0'", "write MVM gG, dX, dACC"),
        ("  MVM g0, d2, d3 INIT", "  MVM g0, d2, d3 INT", "MVM has no flag 'INT'", "did you mean 'INIT'?"),
        ("  MVM g0, d2, d3 INIT", "  MVM g0, d2, d3 INIT INIT", "or it stands there twice", "INIT"),
        ("  LD d5, d0", "  LD d5", "LD takes 2 operands", "write LD dD, dS"),
        ("  LD d5, d0", "  LD.x d5, d0", "LD has no unit", "write LD"),
        ("  LD d5, d0", "  LD d5, d65536", "operand s is 65536, outside", "docs/cim/isa.md"),
        ("  VOP.max d4", "  VOP.mux d4", "VOP has no unit 'mux'", "did you mean 'mul'?"),
        ("  MVMP.6 g1", "  MVMP.x g1", "'x' is no number", "decimal"),
        ("data consts", "data const", "data of 'const', which the text does not name", "remove it"),
        ("  AQID", "  AQIE", "data of 'consts' do not have this size and hash", "SHA-256"),
        ("  AQID", "  AQI", "data of 'consts': Incorrect padding", "base64"),
    ],
)  # fmt: skip
def test_errors_name_the_line(old: str, new: str, message: str, hint: str) -> None:
    assert old in FULL
    text = FULL.replace(old, new, 1)
    with pytest.raises(ProgramError) as caught:
        assemble(text, where="p.lpcasm")
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    start = "consts" if "AQI" in old else old.strip()  # the line that says what the data should be
    assert str(caught.value).startswith(f"p.lpcasm:{line_number(FULL, start)}: ")


@pytest.mark.parametrize(
    ("old", "new", "start", "message"),
    [
        ("  ST d1, d4", "  ST d1, d99", "ST d1", "ST: descriptor is 99, outside 0 to 6"),
        ("MARK n1", "MARK n9", "MARK n1", "MARK: node is 9"),
        ("desc 5 lb u8 0x0 6:18", "desc 5 lb u8 0x0 0:18", "desc 5", "count is 0"),
        ("group 1 planes=0", "group 1 planes=4", "group 1", "planes is 4"),
        ("planes 1 \"\" -1", "planes 1 \"\" -3", "planes 1", "no signed power of two"),
        ("sha256 0", "sha256 x", "machine", "64 hexadecimal digits"),
        ("  in image u8", "  in imago u8", "stage 0", "'imago' is neither an input"),
        ("core 1 run 0\n  HALT", "core 1 run 0\n", "core 1 run 0", "does not end with HALT"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_hold_together_names_the_line(
    old: str, new: str, start: str, message: str
) -> None:
    assert old in FULL
    with pytest.raises(ProgramError) as caught:
        assemble(FULL.replace(old, new, 1), where="p.lpcasm")
    assert str(caught.value).startswith(f"p.lpcasm:{line_number(FULL, start)}: ")
    assert message in str(caught.value)
    assert caught.value.hint


def test_missing_header_lines() -> None:
    text = FULL.replace("dram 2048\n", "")
    with pytest.raises(ProgramError, match=r"p.lpcasm: 'dram' is missing"):
        assemble(text, where="p.lpcasm")
    with pytest.raises(ProgramError, match="the last line is continued"):
        assemble(SHORT + "node 3 \\", where="p.lpcasm")


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_a_program_error(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(20):
        text = list(FULL)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(text))
            text[at : at + source.randint(0, 3)] = source.choice(list('0-9";:=*\\\n ,.abdxgMV+/é\u2028٣['))
        try:
            assemble("".join(text))
        except ProgramError as error:
            assert error.hint  # noqa: PT017


def test_nested_brackets_are_no_name() -> None:
    with pytest.raises(ProgramError, match="is no name"):
        assemble(FULL.replace("machine tiny", "machine " + "[" * 100_000 + '""'))
