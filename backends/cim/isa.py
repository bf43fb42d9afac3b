"""The instruction set: `isa.toml` read once, checked, and asked by everybody else. [cim-machine 2].

A word is `[63:58] opcode | [57:52] flags | [51:48] unit | [47:32] a | [31:16] b | [15:0] c`, little-endian.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from lpcompile.backends.cim.program import Instruction, Queue
from lpcompile.errors import EncodingError, ProgramError
from lpcompile.registry import near_match

WORD_BITS = 64
FIELDS = ("a", "b", "c")
QUEUES = ("cim", "vec", "dma", "noc", "unit", "none")
_INSTRUCTION_KEYS = {"opcode", "queue", "flags", "unit", "units", "operands", "zero", "meaning"}
_OPERAND_KEYS = {"name", "kind", "least", "most"}


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of an instruction.

    Attributes:
        name: as docs/cim/execution.md calls it.
        field: a, b, c or unit.
        kind: key of `Isa.kinds`: descriptor, group, requant, lut, node, core, event, page, tag, plane, unsigned or
            signed.
        prefix: what stands before its number in assembler text.
        least, most: bounds of its value.
    """

    name: str
    field: str
    kind: str
    prefix: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One instruction of the set.

    Attributes:
        queue: cim, vec, dma, noc; `unit`: the queue that the unit names; `none`: the sequencer.
        operands: in the order a, b, c.
        plane: the operand in the unit field, if the unit is a number.
        flags: name -> value, one bit each.
        units: name -> code, if the unit is a code.
        zero_mask: bits of the word that must be zero.
        meaning: one sentence.
    """

    mnemonic: str
    opcode: int
    queue: str
    operands: tuple[Operand, ...]
    plane: Operand | None
    flags: Mapping[str, int]
    units: Mapping[str, int]
    zero_mask: int
    meaning: str

    @property
    def flag_mask(self) -> int:
        """Flags that may be set."""
        return sum(self.flags.values())

    @property
    def unit_codes(self) -> range | frozenset[int]:
        """Values that the unit field may have."""
        if self.plane is not None:
            return range(self.plane.least, self.plane.most + 1)
        return frozenset(self.units.values()) or frozenset({0})


@dataclass(frozen=True, slots=True)
class Isa:
    """The whole table.

    Attributes:
        version: goes up with every change of meaning or encoding.
        word: field -> (lowest bit, bits).
        kinds: operand kind -> its description.
        operations: mnemonic -> instruction, by ascending opcode.
        by_opcode: the same by opcode.
    """

    version: int
    word: Mapping[str, tuple[int, int]]
    kinds: Mapping[str, Mapping[str, Any]]
    operations: Mapping[str, Operation]
    by_opcode: Mapping[int, Operation]


@cache
def isa() -> Isa:
    """The shipped instruction set, read and checked on first use."""
    return load((resources.files("lpcompile.backends.cim") / "isa.toml").read_text("utf-8"))


def load(text: str) -> Isa:
    """Read an instruction table and check that every bit of every word is accounted for exactly once.

    Raises:
        EncodingError: it contradicts itself.
    """
    try:
        data = tomllib.loads(text)
        word = {name: (int(low), int(bits)) for name, (low, bits) in data["word"].items()}
        kinds, tables, version = data["kinds"], data["instructions"], int(data["version"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise EncodingError(f"not an instruction table: {error}", where="isa.toml") from error
    if set(word) != {"opcode", "flags", "unit", *FIELDS} or _covered(word.values()) != (1 << WORD_BITS) - 1:
        raise EncodingError("the fields do not make up the word", where="isa.toml")
    found = [_operation(name, table, word, kinds) for name, table in tables.items()]
    found.sort(key=lambda operation: operation.opcode)
    by_opcode = {operation.opcode: operation for operation in found}
    if len(by_opcode) != len(found):
        raise EncodingError("two instructions share an opcode", where="isa.toml")
    operations = {operation.mnemonic: operation for operation in found}
    return Isa(version, word, kinds, MappingProxyType(operations), MappingProxyType(by_opcode))


def _covered(fields: Any, mask: int = 0, where: str = "isa.toml") -> int:
    """Bits of the word that the fields (low, bits) take; each may be taken once."""
    for low, bits in fields:
        own = ((1 << bits) - 1) << low
        if mask & own or low < 0 or bits < 1 or own >> WORD_BITS:
            raise EncodingError("bits are taken twice, or lie outside the word", where=where)
        mask |= own
    return mask


def _operation(
    name: str, table: Any, word: Mapping[str, tuple[int, int]], kinds: Mapping[str, Any]
) -> Operation:
    where = f"isa.toml: {name}"
    if not isinstance(table, dict) or not {"opcode", "queue", "meaning"} <= set(table) <= _INSTRUCTION_KEYS:
        raise EncodingError("keys are missing or unknown", where=where)
    if table["queue"] not in QUEUES or not 0 <= table["opcode"] < 1 << word["opcode"][1]:
        raise EncodingError("queue or opcode is out of range", where=where)
    if "unit" in table and "units" in table:
        raise EncodingError("the unit is either a code or an operand", where=where)
    given = table.get("operands", {})
    if not set(given) <= set(FIELDS):
        raise EncodingError(f"operands are in fields {', '.join(FIELDS)}", where=where)
    operands = tuple(_operand(f, given[f], word, kinds, where) for f in FIELDS if f in given)
    plane = _operand("unit", table["unit"], word, kinds, where) if "unit" in table else None
    flags, units = table.get("flags", {}), table.get("units", {})
    flag_low, flag_bits = word["flags"]
    taken = [word["opcode"], *(word[o.field] for o in operands)]
    taken += [word["unit"]] if plane is not None or units else []
    for value in flags.values():
        if value.bit_count() != 1 or value >> flag_bits:
            raise EncodingError("a flag is one bit of the flags field", where=where)
        taken.append((flag_low + value.bit_length() - 1, 1))
    if len(set(units.values())) != len(units) or any(
        not 0 <= u < 1 << word["unit"][1] for u in units.values()
    ):
        raise EncodingError("unit codes differ and fit their field", where=where)
    if table["queue"] == "unit" and units != {queue.name.lower(): queue.value for queue in Queue}:
        raise EncodingError("the units are not the queues", where=where)
    zero = [_zero_field(text, word, where) for text in table.get("zero", ())]
    zero_mask = _covered(zero, where=where)
    if _covered(zero, _covered(taken, where=where), where) != (1 << WORD_BITS) - 1:
        raise EncodingError("bits are neither used nor listed under 'zero'", where=where)
    return Operation(
        name, table["opcode"], table["queue"], operands, plane,
        MappingProxyType(flags), MappingProxyType(units), zero_mask, table["meaning"],
    )  # fmt: skip


def _operand(
    field: str, table: Any, word: Mapping[str, tuple[int, int]], kinds: Mapping[str, Any], where: str
) -> Operand:
    if not {"name", "kind"} <= set(table) <= _OPERAND_KEYS or table["kind"] not in kinds:
        raise EncodingError(f"operand '{field}' has an unknown kind or key", where=where)
    kind, bits = kinds[table["kind"]], word[field][1]
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind.get("signed") else (0, (1 << bits) - 1)
    least, most = table.get("least", low), table.get("most", high)
    if not low <= least <= most <= high:
        raise EncodingError(f"operand '{field}' does not fit its field", where=where)
    return Operand(table["name"], field, table["kind"], kind["prefix"], least, most)


def _zero_field(text: str, word: Mapping[str, tuple[int, int]], where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\w+)(?:\[(\d+):(\d+)\])?", text)
    if match is None or match[1] not in word:
        raise EncodingError(f"cannot read '{text}' under 'zero'", where=where)
    low, bits = word[match[1]]
    if match[2] is None:
        return low, bits
    high_bit, low_bit = int(match[2]), int(match[3])
    if not low_bit <= high_bit < bits:
        raise EncodingError(f"'{text}' under 'zero' lies outside its field", where=where)
    return low + low_bit, high_bit - low_bit + 1


def mnemonics() -> tuple[str, ...]:
    """Every instruction, by ascending opcode."""
    return tuple(isa().operations)


def operation(mnemonic: str) -> Operation:
    """The instruction of that name.

    Raises:
        ProgramError: there is none.
    """
    found = isa().operations.get(mnemonic)
    if found is None:
        raise ProgramError(
            f"no instruction is called '{mnemonic}'", hint=near_match(mnemonic, list(mnemonics()))
        )
    return found


def queue_of(instruction: Instruction) -> Queue | None:
    """The queue that an instruction goes to; None: the sequencer handles it.

    Raises:
        ProgramError: there is no such instruction, or its unit names no queue.
    """
    queue = operation(instruction.mnemonic).queue
    if queue == "none":
        return None
    if queue != "unit":
        return Queue[queue.upper()]
    if instruction.unit not in set(Queue):
        raise ProgramError(f"{instruction.mnemonic}: unit {instruction.unit} is no queue", hint="use 0 to 3")
    return Queue(instruction.unit)


def operands_of(instruction: Instruction) -> Iterator[tuple[Operand, int]]:
    """Operands of an instruction with their values, in the order a, b, c.

    Raises:
        ProgramError: there is no such instruction.
    """
    for operand in operation(instruction.mnemonic).operands:
        yield operand, getattr(instruction, operand.field)


def fault(instruction: Instruction) -> str | None:
    """What keeps an instruction from being a word of the set; None if nothing does."""
    found = isa().operations.get(instruction.mnemonic)
    if found is None:
        return f"no instruction is called '{instruction.mnemonic}'"
    if instruction.flags & ~found.flag_mask:
        return f"{found.mnemonic} has no flag {instruction.flags & ~found.flag_mask:#x}"
    if instruction.unit not in found.unit_codes:
        return f"{found.mnemonic} has no unit {instruction.unit}"
    used = {operand.field: operand for operand in found.operands}
    for field in FIELDS:
        value = getattr(instruction, field)
        if field not in used:
            if value != 0:
                return f"{found.mnemonic} has no operand {field}, which must be 0 and not {value}"
        elif not used[field].least <= value <= used[field].most:
            o = used[field]
            return f"{found.mnemonic}: operand {o.name} is {value}, outside {o.least} to {o.most}"
    return None
