r"""The smallest parts of assembler text: lines, names, numbers, instructions.

line         words; a word is plain or has parts in double quotes, escaped as in JSON; `;` starts a comment;
             a last word `\` continues the line
numbers      decimal or 0x; `value*times` in lists
instruction  MNEMONIC[.unit] operand, operand, operand FLAG FLAG; operands carry the letter of their table
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence

from lpcompile.backends.cim.isa import FIELDS, fault, isa, operation
from lpcompile.backends.cim.program import Instruction
from lpcompile.errors import ProgramError
from lpcompile.registry import near_match

LINE_WIDTH = 100
SHORTEST_RUN = 4
MOST_LIST = 1 << 20
CONTINUED = "\\"
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./:+-]*")
_WORD = re.compile(r'(?:[^\s;"]|"(?:[^"\\]|\\.)*")+')
_SKIPPED = re.compile(r"\s*(?:;.*)?")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]{1,16}|[0-9]{1,19})")


def quoted(name: str) -> str:
    """A name as a word of a line; ASCII."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def unquoted(word: str) -> str:
    """The name that a word stands for.

    Raises:
        ProgramError: what stands in quotes is no JSON string.
    """
    if '"' not in word:
        return word
    try:
        found = (
            json.loads(word) if word.startswith('"') else None
        )  # nothing but strings: lists may nest too deep
    except ValueError:
        found = None
    if not isinstance(found, str):
        raise ProgramError(f"{word} is no name", hint="escape it as a JSON string")
    return found


def words_of(line: str) -> list[str]:
    """Words of a line, without its comment.

    Raises:
        ProgramError: a quote is not closed.
    """
    found: list[str] = []
    at = 0
    while True:
        skipped = _SKIPPED.match(line, at)
        at = at if skipped is None else skipped.end()
        if at == len(line):
            return found
        match = _WORD.match(line, at)
        if match is None:
            raise ProgramError("a quote is not closed", hint='end the name with "')
        found.append(match[0])
        at = match.end()


def wrapped(words: Iterable[str], indent: str = "") -> list[str]:
    """Lines of at most LINE_WIDTH characters that hold the words, as far as single words let them."""
    lines, line = [], indent
    for word in words:
        if line.strip() and len(line) + len(word) + 3 > LINE_WIDTH:
            lines.append(f"{line} {CONTINUED}")
            line = indent + "   "
        line += f" {word}" if line.strip() else word
    return [*lines, line]


def number(word: str) -> int:
    """The number that a word stands for.

    Raises:
        ProgramError: it is none, or has more than 64 bits.
    """
    if _NUMBER.fullmatch(word) is None:
        raise ProgramError(
            f"'{word}' is no number", hint="write a decimal number, or 0x and hexadecimal digits"
        )
    return int(word, 0) if "x" in word else int(word)


def run_lengths(values: Sequence[int]) -> list[str]:
    """Words for a list of numbers, runs of equal ones as `value*times`."""
    words: list[str] = []
    for value, run in itertools.groupby(values):
        times = len(list(run))
        words += [f"{value}*{times}"] if times >= SHORTEST_RUN else [str(value)] * times
    return words


def numbers(words: Iterable[str]) -> tuple[int, ...]:
    """The list that `run_lengths` wrote.

    Raises:
        ProgramError: a word is no number, or the list is too long.
    """
    found: list[int] = []
    for word in words:
        value, star, times = word.partition("*")
        count = number(times) if star else 1
        if not 0 <= count <= MOST_LIST - len(found):
            raise ProgramError(f"'{word}' makes the list longer than {MOST_LIST}", hint="shorten the list")
        found += [number(value)] * count
    return tuple(found)


def instruction_text(instruction: Instruction) -> str:
    """An instruction in words; it must be one of the set."""
    found = operation(instruction.mnemonic)
    head = found.mnemonic
    if found.plane is not None:
        head += f".{instruction.unit}"
    elif found.units:
        head += "." + next(name for name, code in found.units.items() if code == instruction.unit)
    operands = [f"{o.prefix}{getattr(instruction, o.field)}" for o in found.operands]
    flags = [name for name, bit in found.flags.items() if instruction.flags & bit]
    return " ".join([head, *([", ".join(operands)] if operands else []), *flags])


def parsed_instruction(words: Sequence[str]) -> Instruction:
    """The instruction that words say.

    Raises:
        ProgramError: unknown mnemonic, unit or flag, operands that are missing, too many or of another kind.
    """
    mnemonic, dot, unit_name = words[0].partition(".")
    if mnemonic not in isa().operations:
        found_near = near_match(mnemonic.upper(), list(isa().operations))
        raise ProgramError(f"no instruction is called '{mnemonic}'", hint=found_near)
    found = isa().operations[mnemonic]
    unit = 0
    if found.plane is not None:
        unit = number(unit_name)
    elif found.units:
        if unit_name not in found.units:
            raise ProgramError(
                f"{mnemonic} has no unit '{unit_name}'", hint=near_match(unit_name, list(found.units))
            )
        unit = found.units[unit_name]
    elif dot:
        raise ProgramError(f"{mnemonic} has no unit", hint=f"write {mnemonic}")
    usage = " ".join([mnemonic, ", ".join(f"{o.prefix}{o.name.upper()}" for o in found.operands)]).strip()
    given = [word for word in " ".join(words[1:]).replace(",", " ").split() if word]
    count = len(found.operands)
    if len(given) < count:
        raise ProgramError(f"{mnemonic} takes {count} operands", hint=f"write {usage}")
    values = dict.fromkeys(FIELDS, 0)
    for operand, word in zip(found.operands, given, strict=False):
        if not word.startswith(operand.prefix):
            raise ProgramError(
                f"operand {operand.name} is a {operand.kind}, not '{word}'", hint=f"write {usage}"
            )
        values[operand.field] = number(word[len(operand.prefix) :])
    flags = 0
    for word in given[count:]:
        if word not in found.flags or flags & found.flags[word]:
            hint = near_match(word, list(found.flags)) if found.flags else f"write {usage}"
            raise ProgramError(f"{mnemonic} has no flag '{word}', or it stands there twice", hint=hint)
        flags |= found.flags[word]
    instruction = Instruction(mnemonic, unit=unit, flags=flags, **values)
    wrong = fault(instruction)
    if wrong is not None:
        raise ProgramError(wrong, hint="docs/cim/isa.md lists the bounds of every operand")
    return instruction
