r"""The binary form of a program, `.lpcim`: the same program gives the same bytes, and every file has one reading.

    0  6s   magic "LPCIM\0"
    6  u16  version of this format
    8  u16  version of the instruction set
   10  u16  bytes of the machine's name
   12  u32  number of sections
   16  u64  bytes of the file
   24  32s  SHA-256 of the machine description
   56       name of the machine, UTF-8
            section table, 24 bytes each: u16 kind, u16 core, u16 number, u16 0, u64 bytes, u32 CRC-32, u32 0
            u32 CRC-32 of everything so far
            the sections, in the order of their table, which is ascending

Integers are little-endian.  Tables are varints of `container_records`, code is words (number 0: boot, i + 1: run i).
A file is untrusted: lengths are checked before anything is allocated, and `check_program` sees what was read.
"""

import dataclasses
import io
import itertools
import struct
import zlib
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from lpcompile.backends.cim import container_records as records
from lpcompile.backends.cim.container_records import Codec, many, pair
from lpcompile.backends.cim.isa import isa
from lpcompile.backends.cim.isa_words import decode_stream, encode_stream
from lpcompile.backends.cim.program import CoreCode, HostStage, Program
from lpcompile.backends.cim.program_check import check_program
from lpcompile.backends.cim.program_limits import LUT_BYTES
from lpcompile.backends.cim.varints import Cursor, pack, unpack
from lpcompile.errors import ProgramError

MAGIC = b"LPCIM\0"
FORMAT_VERSION = 1
MOST_TABLE_BYTES = 1 << 24
MOST_NAME_BYTES = 1 << 14
_HEADER = struct.Struct("<6sHHHIQ32s")
_ENTRY = struct.Struct("<HHHHQII")
_CRC = struct.Struct("<I")
_DAMAGED = "the file is damaged: compile the model again"
_FOREIGN = "give a program.lpcim that 'lpcompile MODEL --target cim' wrote"


class Section(IntEnum):
    """Kinds of section."""

    INTERFACE = 1
    STAGES = 2
    NODES = 3
    PLANE_SETS = 4
    DESCRIPTORS = 5
    GROUPS = 6
    REQUANTS = 7
    LUTS = 8
    CODE = 9
    WEIGHTS = 10
    CONSTS = 11
    HOST_MODEL = 12


class _Key(NamedTuple):
    kind: int
    core: int = 0
    number: int = 0


_INTERFACE = pair(records.UNSIGNED, pair(many(records.INTERFACE), many(records.INTERFACE)))
_TABLES: dict[Section, tuple[str, Codec[Any]]] = {
    Section.STAGES: ("stages", many(records.STAGE)),
    Section.NODES: ("nodes", many(records.TEXT)),
    Section.PLANE_SETS: ("plane_sets", many(records.PLANE_SET)),
    Section.DESCRIPTORS: ("descriptors", many(records.DESCRIPTOR)),
    Section.GROUPS: ("groups", many(records.GROUP)),
    Section.REQUANTS: ("requants", many(records.REQUANT)),
}
_DATA = (Section.WEIGHTS, Section.CONSTS, Section.HOST_MODEL)


def to_bytes(program: Program) -> bytes:
    """The binary form of a program.

    Raises:
        ProgramError: the program does not hold together, or is too large for the format.
    """
    check_program(program)
    sections = _sections(program)
    for key, data in sections.items():
        if key.kind not in (*_DATA, Section.CODE, Section.LUTS) and len(data) > MOST_TABLE_BYTES:
            raise ProgramError("the table is too large", where=_title(key), hint="compile a smaller model")
    name = program.machine.encode()
    total = _head_bytes(program, sections) + sum(map(len, sections.values()))
    sha = bytes.fromhex(program.machine_sha256)
    parts = [
        _HEADER.pack(MAGIC, FORMAT_VERSION, isa().version, len(name), len(sections), total, sha),
        name,
        *(_ENTRY.pack(*key, 0, len(data), zlib.crc32(data), 0) for key, data in sections.items()),
    ]
    parts.append(_CRC.pack(zlib.crc32(b"".join(parts))))
    return b"".join([*parts, *sections.values()])


def size_without_weights(program: Program) -> int:
    """Bytes of the binary form without bit planes, constants of the hp unit and models of host stages.

    Args:
        program: one that `check_program` accepts.
    """
    sections = _sections(program)
    kept = sum(len(data) for key, data in sections.items() if key.kind not in _DATA)
    return _head_bytes(program, sections) + kept


def from_bytes(data: bytes, where: str = "program") -> Program:
    """Read the binary form of a program.

    Args:
        data: untrusted.
        where: the file, for messages.

    Raises:
        ProgramError: it is none, is damaged, or was made by another version.
    """
    return _read(io.BytesIO(data), len(data), where)


def read_program(path: Path) -> Program:
    """Read a program from an untrusted file.

    Raises:
        ProgramError: there is no such file, or as `from_bytes`.
    """
    try:
        if not path.is_file():
            missing = "there is no such file" if not path.exists() else "this is no regular file"
            raise ProgramError(missing, where=str(path), hint=_FOREIGN)
        with path.open("rb") as stream:
            return _read(stream, path.stat().st_size, str(path))
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        raise ProgramError(message, where=str(path), hint="check its permissions") from error


def _head_bytes(program: Program, sections: dict[_Key, bytes]) -> int:
    return _HEADER.size + len(program.machine.encode()) + _ENTRY.size * len(sections) + _CRC.size


def _sections(program: Program) -> dict[_Key, bytes]:
    interface = (program.dram_bytes, (program.inputs, program.outputs))
    found = {_Key(Section.INTERFACE): _packed(_INTERFACE, interface)}
    for kind, (name, codec) in _TABLES.items():
        found[_Key(kind)] = _packed(codec, getattr(program, name))
    found[_Key(Section.LUTS)] = b"".join(program.luts)
    for core, code in enumerate(program.cores):
        for number, stream in enumerate((code.boot, *code.run)):
            found[_Key(Section.CODE, core, number)] = encode_stream(stream).tobytes()
    found[_Key(Section.WEIGHTS)], found[_Key(Section.CONSTS)] = program.weights, program.consts
    for number, stage in enumerate(program.stages):
        if isinstance(stage, HostStage):
            found[_Key(Section.HOST_MODEL, 0, number)] = stage.model
    return found


def _packed(codec: Codec[Any], value: Any) -> bytes:
    numbers: list[int] = []
    codec.write(numbers, value)
    return pack(numbers)


def _unpacked(codec: Codec[Any], data: bytes, where: str) -> Any:
    cursor = Cursor(unpack(data, where), where)
    value = codec.read(cursor)
    if cursor.left:
        cursor.refuse("there is more in it than there should be")
    return value


class _Head(NamedTuple):
    machine: str
    machine_sha256: str
    table: list[tuple[_Key, int, int]]  # key, bytes, CRC-32


def _read(stream: BinaryIO, size: int, where: str) -> Program:
    head = _read_head(stream, size, where)
    sections: dict[_Key, bytes] = {}
    for key, length, crc in head.table:
        data = stream.read(length)
        if len(data) != length or zlib.crc32(data) != crc:
            _refuse(f"the CRC of section {_title(key)} is wrong", where)
        sections[key] = data
    try:
        program = _program(head, sections)
        check_program(program)
    except ProgramError as error:
        place = where if error.where is None else f"{where}: {error.where}"
        raise ProgramError(error.message, where=place, hint=error.hint) from error
    return program


def _read_head(stream: BinaryIO, size: int, where: str) -> _Head:
    start = stream.read(_HEADER.size)
    if not start.startswith(MAGIC):
        raise ProgramError("this is no program", where=where, hint=_FOREIGN)
    if len(start) < _HEADER.size:
        _refuse("the file is cut off", where)
    _, version, isa_version, name_bytes, count, total, sha = _HEADER.unpack(start)
    for what, found, known in (
        ("format", version, FORMAT_VERSION),
        ("instruction set", isa_version, isa().version),
    ):
        if found != known:
            message = f"version {found} of the {what}, and this lpcompile knows {known}"
            raise ProgramError(message, where=where, hint="compile the model again with this version")
    if total != size:
        _refuse(f"the file has {size} bytes and should have {total}", where)
    rest = name_bytes + count * _ENTRY.size
    if name_bytes > MOST_NAME_BYTES or _HEADER.size + rest + _CRC.size > size:
        _refuse("the section table is larger than the file", where)
    table = stream.read(rest)
    if stream.read(_CRC.size) != _CRC.pack(zlib.crc32(start + table)):
        _refuse("the CRC of the header is wrong", where)
    try:
        machine = table[:name_bytes].decode()
    except UnicodeDecodeError:
        _refuse("the name of the machine is no text", where)
    entries: list[tuple[_Key, int, int]] = []
    for kind, core, number, zero, length, crc, zero2 in _ENTRY.iter_unpack(table[name_bytes:]):
        if zero or zero2 or kind not in set(Section):
            _refuse(f"unknown section {kind}", where)
        if kind not in (*_DATA, Section.CODE, Section.LUTS) and length > MOST_TABLE_BYTES:
            _refuse(f"section {_title(_Key(kind))} is too large", where)
        entries.append((_Key(kind, core, number), length, crc))
    if any(a[0] >= b[0] for a, b in itertools.pairwise(entries)):
        _refuse("the sections are not in order", where)
    if _HEADER.size + rest + _CRC.size + sum(length for _, length, _ in entries) != size:
        _refuse("the sections do not make up the file", where)
    return _Head(machine, sha.hex(), entries)


def _program(head: _Head, sections: dict[_Key, bytes]) -> Program:
    """What the sections say; whether it holds together is for `check_program`."""
    single = [kind for kind in Section if kind not in (Section.CODE, Section.HOST_MODEL)]
    missing = [kind for kind in single if _Key(kind) not in sections]
    if missing:
        _refuse(f"section {_title(_Key(missing[0]))} is missing", None)
    dram_bytes, (inputs, outputs) = _unpacked(_INTERFACE, sections.pop(_Key(Section.INTERFACE)), "interface")
    tables = {
        name: _unpacked(codec, sections.pop(_Key(kind)), _title(_Key(kind)))
        for kind, (name, codec) in _TABLES.items()
    }
    luts = sections.pop(_Key(Section.LUTS))
    if len(luts) % LUT_BYTES:
        _refuse(f"{len(luts)} bytes are no whole tables", "luts")
    weights, consts = sections.pop(_Key(Section.WEIGHTS)), sections.pop(_Key(Section.CONSTS))
    stages = []
    for number, stage in enumerate(tables.pop("stages")):
        key = _Key(Section.HOST_MODEL, 0, number)
        if isinstance(stage, HostStage):
            if key not in sections:
                _refuse("its model is missing", f"stage {number}")
            stage = dataclasses.replace(stage, model=sections.pop(key))
        stages.append(stage)
    cores = _cores({key: sections.pop(key) for key in list(sections) if key.kind == Section.CODE})
    if sections:
        _refuse(f"section {_title(next(iter(sections)))} serves nothing", None)
    return Program(
        machine=head.machine,
        machine_sha256=head.machine_sha256,
        cores=cores,
        luts=tuple([luts[at : at + LUT_BYTES] for at in range(0, len(luts), LUT_BYTES)]),
        weights=weights,
        consts=consts,
        dram_bytes=dram_bytes,
        stages=tuple(stages),
        inputs=inputs,
        outputs=outputs,
        **tables,
    )


def _cores(code: dict[_Key, bytes]) -> tuple[CoreCode, ...]:
    """Streams by core; keys ascend."""
    found: list[list[tuple[Any, ...]]] = []
    for key, data in code.items():
        if key.core == len(found):
            found.append([])
        if key.core != len(found) - 1 or key.number != len(found[-1]):
            _refuse("a stream is missing", _title(key))
        found[-1].append(decode_stream(data, _title(key)))
    return tuple([CoreCode(streams[0], tuple(streams[1:])) for streams in found])


def _title(key: _Key) -> str:
    if key.kind == Section.CODE:
        return f"core {key.core} " + ("boot" if key.number == 0 else f"run {key.number - 1}")
    name = Section(key.kind).name.lower().replace("_", " ")
    return f"{name} {key.number}" if key.kind == Section.HOST_MODEL else name


def _refuse(message: str, where: str | None) -> NoReturn:
    raise ProgramError(message, where=where, hint=_DAMAGED)
