"""The instruction table, words, and the page derived from it."""

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.isa import (
    Operation,
    fault,
    isa,
    load,
    mnemonics,
    operands_of,
    operation,
    queue_of,
)
from lpcompile.backends.cim.isa_words import decode, decode_stream, encode, encode_stream
from lpcompile.backends.cim.program import Instruction, Queue
from lpcompile.errors import EncodingError, ProgramError
from tests.documents.generated.isa_page import page

ROOT = Path(__file__).resolve().parents[3]
TABLE = (resources.files("lpcompile.backends.cim") / "isa.toml").read_text("utf-8")
OPCODES = {
    "NOP": 0x00, "HALT": 0x01, "REPEAT": 0x07, "SIG": 0x09, "WAIT": 0x0A, "BAR": 0x0B, "LD": 0x10, "ST": 0x11,
    "MOV": 0x12, "FILL": 0x13, "SEND": 0x14, "RECV": 0x15, "WPROG": 0x20, "WPAGE": 0x21, "MVM": 0x24, "MVMP": 0x25,
    "ACC": 0x26, "VOP": 0x30, "VRQ": 0x31, "VADDQ": 0x32, "VLUT": 0x33, "VRED": 0x34, "VPOOL": 0x36, "VDW": 0x37,
    "VMM": 0x38, "VTR": 0x39, "VCVT": 0x3A, "MARK": 0x3F,
}  # fmt: skip


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    found: Operation = isa().operations[draw(st.sampled_from(mnemonics()))]
    values = {o.field: draw(st.integers(o.least, o.most)) for o in found.operands}
    flags = sum(bit for bit in found.flags.values() if draw(st.booleans()))
    return Instruction(
        found.mnemonic, unit=draw(st.sampled_from(sorted(found.unit_codes))), flags=flags, **values
    )


def test_opcodes_are_those_of_the_machine_model() -> None:
    assert {name: o.opcode for name, o in isa().operations.items()} == OPCODES
    assert mnemonics() == tuple(OPCODES)


def test_every_bit_is_used_or_zero() -> None:
    """Counted from encoded words, not from the table."""
    for found in isa().operations.values():
        used = 0
        for o in found.operands:
            used |= encode(_sample(found, {o.field: o.most})) ^ encode(_sample(found, {o.field: o.least}))
            used |= ((1 << 16) - 1) << isa().word[o.field][0]
        used |= sum(found.flags.values()) << 52
        if found.units or found.plane:
            used |= 15 << 48
        assert used | found.zero_mask | 63 << 58 == (1 << 64) - 1
        assert used & found.zero_mask == 0


def _sample(found: Operation, given_values: dict[str, int]) -> Instruction:
    values = {o.field: o.least for o in found.operands} | given_values
    return Instruction(found.mnemonic, unit=min(found.unit_codes), **values)


def test_words_by_hand() -> None:
    assert encode(Instruction("HALT")) == 1 << 58
    assert (
        encode(Instruction("MVM", 0x0102, 0x0304, 0x0506, flags=3)) == 0x24 << 58 | 3 << 52 | 0x010203040506
    )
    assert encode(Instruction("VOP", 1, 2, 3, unit=6)) == 0x30 << 58 | 6 << 48 | 1 << 32 | 2 << 16 | 3
    assert encode(Instruction("FILL", 7, -2)) == 0x13 << 58 | 7 << 32 | 0xFFFE << 16
    stream = (Instruction("FILL", 7, -2), Instruction("HALT"))
    assert encode_stream(stream).tobytes().hex() == "0000feff0700004c" + "0000000000000004"


@given(instructions())
def test_decode_undoes_encode(instruction: Instruction) -> None:
    assert decode(encode(instruction)) == instruction


@pytest.mark.thorough
@given(st.lists(instructions(), max_size=20))
def test_streams_agree_with_single_words(stream: list[Instruction]) -> None:
    words = encode_stream(stream)
    assert words.tolist() == [encode(i) for i in stream]
    assert decode_stream(words.tobytes()) == tuple(stream)


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([0, *OPCODES.values()]))
def test_any_word_is_decoded_to_itself_or_refused(word: int, opcode: int) -> None:
    word = word & ~(63 << 58) | opcode << 58 if opcode else word
    data = np.array([1 << 58, word], "<u8").tobytes()
    single, stream = attempt(lambda: decode(word)), attempt(lambda: decode_stream(data, "core 0 boot")[1])
    if isinstance(single, Instruction):
        assert encode(single) == word
        assert stream == single
    else:
        assert isinstance(stream, ProgramError)
        assert (stream.message, stream.where) == (single.message, "core 0 boot, word 1")


def attempt(read: Callable[[], Instruction]) -> Instruction | ProgramError:
    try:
        return read()
    except ProgramError as error:
        return error


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (0x02 << 58, "unknown opcode 0x02"),
        (0x01 << 58 | 1, "HALT has no operand c, which must be 0 and not 1"),
        (0x24 << 58 | 4 << 52, "MVM has no flag 0x4"),
        (0x30 << 58 | 7 << 48, "VOP has no unit 7"),
        (0x25 << 58 | 8 << 48, "MVMP has no unit 8"),
        (0x07 << 58 | 1 << 16, "operand n is 0, outside 1 to 65535"),
        (1 << 64, "no 64-bit word"),
    ],
)
def test_bad_words(word: int, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)) as caught:
        decode(word)
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Instruction("MVN"), "no instruction is called 'MVN'"),
        (Instruction("LD", 1 << 16, 0), "operand d is 65536, outside 0 to 65535"),
        (Instruction("LD", -1, 0), "operand d is -1"),
        (Instruction("LD", 1 << 70, 0), "operand d is"),
        *(
            (Instruction("LD", v, 0), "operand d is")
            for v in (-(1 << 16) - 1, -(1 << 16), (1 << 17) - 1, 1 << 17)
        ),
        (Instruction("LD", 0, 0, 1), "LD has no operand c"),
        (Instruction("FILL", 0, 1 << 15), "operand v is 32768, outside -32768 to 32767"),
        (Instruction("VDW", flags=2), "VDW has no flag 0x2"),
        (Instruction("SIG", unit=4), "SIG has no unit 4"),
        (Instruction("LD", unit=-1), "LD has no unit -1"),
    ],
)
def test_what_does_not_fit_is_not_encoded(instruction: Instruction, message: str) -> None:
    assert message in (fault(instruction) or "")
    with pytest.raises(EncodingError, match=re.escape(message)):
        encode(instruction)
    with pytest.raises(EncodingError, match=re.escape(message)) as caught:
        encode_stream([Instruction("HALT"), instruction])
    assert caught.value.where == "instruction 1"


def test_streams_of_whole_words_only() -> None:
    assert decode_stream(b"") == ()
    assert encode_stream([]).shape == (0,)
    with pytest.raises(ProgramError, match="7 bytes are no whole words"):
        decode_stream(bytes(7))


def test_queues() -> None:
    assert queue_of(Instruction("MVM")) is Queue.CIM
    assert queue_of(Instruction("FILL")) is Queue.VEC
    assert queue_of(Instruction("ST")) is Queue.DMA
    assert queue_of(Instruction("SEND")) is Queue.NOC
    assert queue_of(Instruction("WAIT", unit=3)) is Queue.NOC
    assert queue_of(Instruction("REPEAT", 2, 1)) is None
    with pytest.raises(ProgramError, match="unit 4 is no queue"):
        queue_of(Instruction("SIG", unit=4))


def test_operands() -> None:
    found = [(o.name, o.kind, value) for o, value in operands_of(Instruction("MVM", 1, 2, 3))]
    assert found == [("g", "group", 1), ("x", "descriptor", 2), ("acc", "descriptor", 3)]
    with pytest.raises(ProgramError, match="'VRQQ'") as caught:
        operation("VRQQ")
    assert caught.value.hint == "did you mean 'VRQ'?"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('zero = ["flags[5:2]", "unit"]', 'zero = ["unit"]', "MVM: bits are neither used nor listed"),
        ('zero = ["flags[5:2]", "unit"]', 'zero = ["flags", "unit"]', "MVM: bits are taken twice"),
        ('zero = ["flags[5:2]", "unit"]', 'zero = ["flags[6:2]", "unit"]', "lies outside its field"),
        ('zero = ["flags[5:2]", "unit"]', 'zero = ["flogs"]', "cannot read 'flogs'"),
        ("opcode = 0x24", "opcode = 0x25", "two instructions share an opcode"),
        ("opcode = 0x24", "opcode = 0x40", "queue or opcode is out of range"),
        ("opcode = [58, 6]", "opcode = [57, 6]", "bits are taken twice"),
        ("unit = [48, 4]", "unit = [48, 3]", "the fields do not make up the word"),
        ("INIT = 1, SKIPZ = 2", "INIT = 1, SKIPZ = 3", "a flag is one bit"),
        ('kind = "plane", most = 7', 'kind = "plane", most = 17', "operand 'unit' does not fit its field"),
        ('name = "v", kind = "signed"', 'name = "v", kind = "sined"', "operand 'b' has an unknown kind"),
        ("units = { max = 0, sum = 1 }", "units = { max = 0, sum = 0 }", "unit codes differ"),
        ("cim = 0, vec = 1, dma = 2", "cim = 1, vec = 0, dma = 2", "the units are not the queues"),
        ('queue = "noc"', 'queue = "nok"', "queue or opcode is out of range"),
        ('queue = "noc"', 'que = "noc"', "keys are missing or unknown"),
        (f"version = {isa().version}", "version = ", "not an instruction table"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(EncodingError, match=re.escape(message)):
        load(TABLE.replace(old, new))


def test_the_page_is_the_derived_one() -> None:
    assert (ROOT / "docs" / "cim" / "isa.md").read_text("utf-8") == page()


def test_execution_describes_every_instruction() -> None:
    text = (ROOT / "docs" / "cim" / "execution.md").read_text("utf-8")
    assert [name for name in mnemonics() if not re.search(rf"\b{name}\b", text)] == []
