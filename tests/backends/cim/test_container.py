"""The binary form: round trip, size, and what happens to damaged files."""

import os
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.backends.cim.container import from_bytes, read_program, size_without_weights, to_bytes
from lpcompile.backends.cim.program import HostStage, Program
from lpcompile.backends.cim.varints import pack, unpack
from lpcompile.errors import ProgramError
from tests.backends.cim.program_examples import SHA, example_program, large_program, programs

EXAMPLE = to_bytes(example_program())
KINDS = {1: "interface", 2: "stages", 3: "nodes", 4: "planes", 5: "descriptors", 6: "groups", 7: "requants"}
Sections = list[tuple[tuple[int, int, int], bytes]]


def split(data: bytes) -> tuple[list[int | bytes], Sections]:
    """Header and sections of a sound file, read as the description of the format says."""
    head = list(struct.unpack_from("<6sHHHIQ32s", data))
    name_bytes, count = head[3], head[4]
    table = 56 + name_bytes
    at = table + 24 * count + 4
    sections: Sections = []
    for i in range(count):
        kind, core, number, _, length, _, _ = struct.unpack_from("<HHHHQII", data, table + 24 * i)
        sections.append(((kind, core, number), data[at : at + length]))
        at += length
    assert at == len(data)
    return [*head, data[56:table]], sections


def join(head: list[int | bytes], sections: Sections) -> bytes:
    """A file with right lengths and CRCs."""
    name = head[-1]
    assert isinstance(name, bytes)
    total = 56 + len(name) + 24 * len(sections) + 4 + sum(len(data) for _, data in sections)
    parts = [struct.pack("<6sHHHIQ32s", *head[:3], len(name), len(sections), total, head[6]), name]
    parts += [struct.pack("<HHHHQII", *key, 0, len(data), zlib.crc32(data), 0) for key, data in sections]
    parts.append(struct.pack("<I", zlib.crc32(b"".join(parts))))
    return b"".join([*parts, *(data for _, data in sections)])


def test_layout_by_hand() -> None:
    head, sections = split(EXAMPLE)
    assert head == [b"LPCIM\0", 1, 1, 4, len(sections), len(EXAMPLE), bytes.fromhex(SHA), b"tiny"]
    code = [(9, 0, 0), (9, 0, 1), (9, 1, 0), (9, 1, 1)]
    assert [key for key, _ in sections] == [
        *((kind, 0, 0) for kind in range(1, 9)), *code, (10, 0, 0), (11, 0, 0), (12, 0, 1)
    ]  # fmt: skip
    found = dict(sections)
    assert found[9, 1, 0] == b"\0\0\0\0\0\0\0\x04"
    assert found[11, 0, 0] == b"\x01\x02\x03"
    assert found[12, 0, 1] == b"an onnx model"
    assert found[4, 0, 0] == bytes([2, 4, *b"int4", 4, 2, 4, 8, 15, 0, 1, 1])  # zigzag: 1 2 4 -8 -> 2 4 8 15
    assert join(head, sections) == EXAMPLE


@pytest.mark.thorough
@settings(max_examples=30)
@given(programs())
def test_reading_undoes_writing(program: Program) -> None:
    data = to_bytes(program)
    assert from_bytes(data) == program
    assert to_bytes(from_bytes(data)) == data


def test_reasons_are_written_in_order() -> None:
    program = example_program()
    host = program.stages[1]
    assert isinstance(host, HostStage)
    turned = replace(host, reasons=dict(reversed(list(host.reasons.items()))))
    assert to_bytes(replace(program, stages=(program.stages[0], turned))) == EXAMPLE


@pytest.mark.thorough
def test_a_large_program_stays_below_a_megabyte() -> None:
    program = large_program()
    data = to_bytes(program)
    assert size_without_weights(program) == len(data) - len(program.weights) - len(program.consts) - 13
    assert size_without_weights(program) < 700_000
    assert from_bytes(data) == program


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "program.lpcim"
    path.write_bytes(EXAMPLE)
    assert read_program(path) == example_program()
    path.write_bytes(EXAMPLE[:-1])
    with pytest.raises(ProgramError) as caught:
        read_program(path)
    assert (
        str(caught.value) == f"{path}: the file has {len(EXAMPLE) - 1} bytes and should have {len(EXAMPLE)}"
    )
    assert caught.value.hint == "the file is damaged: compile the model again"
    for missing, message in (
        (tmp_path / "no", "there is no such file"),
        (tmp_path, "this is no regular file"),
    ):
        with pytest.raises(ProgramError, match=message):
            read_program(missing)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProgramError, match="this is no regular file"):
        read_program(tmp_path / "pipe")


def patched(at: int, form: str, value: int) -> bytes:
    data = bytearray(EXAMPLE)
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", "this is no program", "program.lpcim that 'lpcompile MODEL"),
        (b"\x08\x08\x12\x07pytorch" + bytes(100), "this is no program", "program.lpcim"),
        (b"LPCIM\0", "the file is cut off", "compile the model again"),
        (patched(6, "<H", 2), "version 2 of the format, and this lpcompile knows 1", "with this version"),
        (
            patched(8, "<H", 9),
            "version 9 of the instruction set, and this lpcompile knows 1",
            "with this version",
        ),
        (patched(12, "<I", (1 << 32) - 1), "the section table is larger than the file", "damaged"),
        (patched(10, "<H", 65535), "the section table is larger than the file", "damaged"),
        (patched(24, "<B", 0xFF), "the CRC of the header is wrong", "damaged"),
        (patched(68, "<Q", 1 << 60), "the CRC of the header is wrong", "damaged"),
        (EXAMPLE[:-1] + b"X", "the CRC of section host model 1 is wrong", "damaged"),
    ],
)
def test_damaged_files(data: bytes, message: str, hint: str) -> None:
    with pytest.raises(ProgramError, match=message) as caught:
        from_bytes(data)
    assert hint in (caught.value.hint or "")


def changed(key: tuple[int, int, int], data: bytes | None, name: bytes = b"tiny") -> bytes:
    """The example with one section replaced, added, or, without data, left out."""
    head, sections = split(EXAMPLE)
    found = dict(sections) | ({} if data is None else {key: data})
    if data is None:
        del found[key]
    return join([*head[:-1], name], sorted(found.items()))


def enumerated(*values: int) -> bytes:
    return pack(values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed((1, 0, 0), None), "section interface is missing"),
        (changed((9, 0, 0), None), "core 0 run 0: a stream is missing"),
        (changed((9, 1, 1), None), "core 1: 0 run streams for 1 device stages"),
        (changed((12, 0, 1), None), "stage 1: its model is missing"),
        (changed((12, 0, 2), b""), "section host model 2 serves nothing"),
        (changed((13, 0, 0), b""), "unknown section 13"),
        (changed((1, 0, 0), bytes((1 << 24) + 1)), "section interface is too large"),
        (changed((8, 0, 0), bytes(255)), "luts: 255 bytes are no whole tables"),
        (changed((9, 0, 0), bytes(7)), "core 0 boot: 7 bytes are no whole words"),
        (changed((9, 0, 0), b"\xff" * 8), "core 0 boot, word 0: word 0xff"),
        (changed((3, 0, 0), b"\x80"), "nodes: the last number is cut off"),
        (changed((3, 0, 0), enumerated((1 << 64) - 1)), "18446744073709551615 entries are announced"),
        (changed((3, 0, 0), enumerated(1, (1 << 64) - 1)), "nodes: it ends too early"),
        (changed((3, 0, 0), enumerated(1, 1, 0xD800)), "text with what is no character"),
        (changed((3, 0, 0), enumerated(1, 1, 1 << 40)), "text with what is no character"),
        (changed((3, 0, 0), enumerated(0, 0)), "there is more in it than there should be"),
        (changed((1, 0, 0), enumerated(9, 1, 0, 0, 1, 3)), "unknown kind of axis 3"),
        (changed((2, 0, 0), enumerated(1, 2)), "2 where 0 or 1 was expected"),
        (changed((2, 0, 0), enumerated(1, 1, 0, 0, 2, 1, 66, 0, 1, 65, 0)), "reasons that are not in order"),
        (changed((5, 0, 0), enumerated(1, 3)), "choice 3 of 3"),
        (changed((8, 0, 0), b"", b"\xff"), "the name of the machine is no text"),
        (join(split(EXAMPLE)[0], split(EXAMPLE)[1][::-1]), "the sections are not in order"),
    ],
)
def test_damage_behind_right_checksums(data: bytes, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        from_bytes(data, "f.lpcim")
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.lpcim: ")
    assert caught.value.hint


def read_or_refused(data: bytes) -> None:
    """Nothing but a ProgramError may come of it; what is read is written as it was."""
    try:
        program = from_bytes(data)
    except ProgramError as error:
        assert error.hint  # noqa: PT017
    else:
        assert to_bytes(program) == data


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(data: bytes, magic: bool) -> None:
    read_or_refused(b"LPCIM\0\x01\0\x01\0" + data if magic else data)


@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255)), max_size=4), st.data())
def test_flipped_and_truncated(flips: list[tuple[int, int]], draw: st.DataObject) -> None:
    data = bytearray(EXAMPLE)
    for at, value in flips:
        data[at] = value
    read_or_refused(bytes(data[: draw.draw(st.integers(0, len(data)))]))
    read_or_refused(bytes(data))


@pytest.mark.thorough
@settings(max_examples=300)
@given(st.data())
def test_changed_numbers_behind_right_checksums(draw: st.DataObject) -> None:
    head, sections = split(EXAMPLE)
    at = draw.draw(st.integers(0, len(sections) - 1))
    key, data = sections[at]
    if key[0] in KINDS:
        numbers = unpack(data, "x").tolist()
        change = draw.draw(st.sampled_from(["set", "drop", "insert"]))
        place = draw.draw(st.integers(0, len(numbers) - 1))
        value = draw.draw(st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)))
        numbers[place : place + (change != "insert")] = [] if change == "drop" else [value]
        data = pack(numbers)
    else:
        place = draw.draw(st.integers(0, len(data)))
        data = data[:place] + draw.draw(st.binary(max_size=9)) + data[place + draw.draw(st.integers(0, 9)) :]
    sections[at] = key, data
    read_or_refused(join(head, sections))


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(1, 12))
def test_random_sections(data: bytes, kind: int) -> None:
    read_or_refused(changed((kind, 0, int(kind == 12)), data))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("number", [1 << 32, (1 << 64) - 1])
def test_announced_sizes_cost_no_memory(kind: int, number: int) -> None:
    data = changed((kind, 0, 0), enumerated(*[number] * 8))
    tracemalloc.start()
    try:
        read_or_refused(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_only_sound_programs_are_written() -> None:
    with pytest.raises(ProgramError, match="64 hexadecimal digits"):
        to_bytes(replace(example_program(), machine_sha256=""))
