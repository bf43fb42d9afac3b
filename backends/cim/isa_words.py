"""Instructions to 64-bit words and back, one by one and as whole streams; the formats come from `isa.toml`."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.isa import FIELDS, fault, isa
from lpcompile.backends.cim.program import Instruction
from lpcompile.errors import EncodingError, ProgramError

WORD_BYTES = 8
DAMAGED = "the program is damaged, or was made for another instruction set: compile it again"
U64 = NDArray[np.uint64]


def encode(instruction: Instruction) -> int:
    """The word of an instruction.

    Raises:
        EncodingError: there is no such instruction, or an operand does not fit.
    """
    wrong = fault(instruction)
    if wrong is not None:
        raise EncodingError(wrong, hint="docs/cim/isa.md lists the fields of every instruction")
    word = isa().word
    values = {"opcode": isa().operations[instruction.mnemonic].opcode}
    values |= {f: getattr(instruction, f) for f in ("flags", "unit", *FIELDS)}
    return sum((values[f] & ((1 << bits) - 1)) << low for f, (low, bits) in word.items())


def decode(word: int) -> Instruction:
    """The instruction of a word.

    Raises:
        ProgramError: unknown opcode, flag or unit, bits that must be zero, an operand out of its bounds.
    """
    if not 0 <= word < 1 << 64:
        raise ProgramError(f"{word:#x} is no 64-bit word", hint=DAMAGED)
    values = {f: word >> low & ((1 << bits) - 1) for f, (low, bits) in isa().word.items()}
    found = isa().by_opcode.get(values["opcode"])
    if found is None:
        raise ProgramError(f"word {word:#018x}: unknown opcode {values['opcode']:#04x}", hint=DAMAGED)
    for operand in found.operands:
        bits = isa().word[operand.field][1]
        if operand.least < 0 and values[operand.field] >> (bits - 1):
            values[operand.field] -= 1 << bits
    del values["opcode"]
    instruction = Instruction(found.mnemonic, **values)
    wrong = fault(instruction)
    if wrong is not None:
        raise ProgramError(f"word {word:#018x}: {wrong}", hint=DAMAGED)
    return instruction


class _Tables(NamedTuple):
    """The instruction set as arrays indexed by opcode, for whole streams."""

    known: NDArray[np.bool_]  # (64,)
    least: NDArray[np.int64]  # (64, 5): flags, unit, a, b, c
    most: NDArray[np.int64]  # (64, 5)
    flags: NDArray[np.int64]  # (64,) flags that may be set
    units: NDArray[np.int64]  # (64,) bit u: unit u is allowed
    signed: NDArray[np.bool_]  # (64, 5)


@cache
def _tables() -> _Tables:
    known, flags, units = np.zeros(64, np.bool_), np.zeros(64, np.int64), np.zeros(64, np.int64)
    least, most, signed = (
        np.zeros((64, 5), np.int64),
        np.zeros((64, 5), np.int64),
        np.zeros((64, 5), np.bool_),
    )
    most[:, 0], most[:, 1] = 63, 15
    for opcode, found in isa().by_opcode.items():
        known[opcode], flags[opcode] = True, found.flag_mask
        units[opcode] = sum(1 << code for code in found.unit_codes)
        for operand in found.operands:
            column = 2 + FIELDS.index(operand.field)
            least[opcode, column], most[opcode, column] = operand.least, operand.most
            signed[opcode, column] = operand.least < 0
    return _Tables(known, least, most, flags, units, signed)


def _faulty(opcodes: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which instructions are no words of the set; values: (n, 5) flags, unit, a, b, c."""
    t = _tables()
    wrong: NDArray[np.bool_] = ~t.known[opcodes]
    wrong |= ((values < t.least[opcodes]) | (values > t.most[opcodes])).any(axis=1)
    wrong |= (values[:, 0] & ~t.flags[opcodes]) != 0
    wrong |= (t.units[opcodes] >> np.clip(values[:, 1], 0, 15) & 1) == 0
    return wrong


def encode_stream(instructions: Sequence[Instruction]) -> NDArray[np.uint64]:
    """The words of a stream, shape (n,), dtype <u8.

    Raises:
        EncodingError: as `encode`, and with the number of the instruction.
    """
    operations = isa().operations
    rows: list[tuple[int, ...]] = []
    for index, i in enumerate(instructions):
        row = (i.flags, i.unit, i.a, i.b, i.c)
        if i.mnemonic not in operations or not all(-(1 << 16) < v < 1 << 17 for v in row):
            raise EncodingError(fault(i) or "it does not fit", where=f"instruction {index}")
        rows.append((operations[i.mnemonic].opcode, *row))
    table = np.array(rows, np.int64).reshape(-1, 6)
    wrong = _faulty(table[:, 0], table[:, 1:])
    if wrong.any():
        index = int(wrong.argmax())
        raise EncodingError(fault(instructions[index]) or "it does not fit", where=f"instruction {index}")
    words = np.zeros(len(rows), np.uint64)
    for column, field in enumerate(("opcode", "flags", "unit", *FIELDS)):
        low, bits = isa().word[field]
        words |= (table[:, column] & ((1 << bits) - 1)).astype(np.uint64) << np.uint64(low)
    return words.astype("<u8")


def decode_stream(data: bytes, where: str | None = None) -> tuple[Instruction, ...]:
    """The instructions of a stream of little-endian words.

    Args:
        data: whole words.
        where: for messages.

    Raises:
        ProgramError: as `decode`, and with the number of the word; a length that is no multiple of 8.
    """
    at = "" if where is None else f"{where}, "
    if len(data) % WORD_BYTES:
        raise ProgramError(f"{len(data)} bytes are no whole words", where=where, hint=DAMAGED)
    # equal words share one record: streams repeat themselves, and records are what costs time
    words, back = np.unique(np.frombuffer(data, "<u8").astype(np.uint64), return_inverse=True)
    columns = [
        (words >> np.uint64(low) & np.uint64((1 << bits) - 1)).astype(np.int64)
        for low, bits in (isa().word[f] for f in ("opcode", "flags", "unit", *FIELDS))
    ]
    opcodes, values = columns[0], np.stack(columns[1:], axis=1)
    values -= (_tables().signed[opcodes] & (values >= 1 << 15)) * (1 << 16)
    wrong = _faulty(opcodes, values)
    if wrong.any():
        index = int(wrong[back].argmax())
        try:
            decode(int.from_bytes(data[index * WORD_BYTES : (index + 1) * WORD_BYTES], "little"))
        except ProgramError as error:
            raise ProgramError(error.message, where=f"{at}word {index}", hint=error.hint) from None
    names = {opcode: found.mnemonic for opcode, found in isa().by_opcode.items()}
    distinct = [
        Instruction(names[opcode], a, b, c, unit, flags)
        for opcode, (flags, unit, a, b, c) in zip(opcodes.tolist(), values.tolist(), strict=True)
    ]
    return tuple([distinct[i] for i in back.tolist()])
