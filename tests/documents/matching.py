"""Whether an output is the recorded one.

Recorded text is exact, with four liberties.  `...` stands for anything within a line, alone on a line for any number
of lines.  Runs of blanks are one blank, and the separators of paths are alike.  A number with a decimal point may be
off by 5 % and by one of its last digit, one with a sign or an error of one (a gain in decibels) by half a unit, and
one with an error behind it by that: such figures come from floating-point arithmetic, whose last digits are those of
one processor and one version of a library.

Other processors take other formats where two are equally good: there an output has to have the outline of the recorded
one, the first words of its lines, of a table only that it is there.
"""

import re

SHARE = 0.05
SIGNED = 0.5
_NUMBER = r"(?:[+-]|\+- )?\d[\d,]*\.\d+(?:e[+-]?\d+)?"
_PARTS = re.compile(rf"(\.\.\.|{_NUMBER})")


def difference(recorded: str, got: str) -> str | None:
    """The first recorded line that was not met, or None where all are."""
    wanted, lines = _lines(recorded), _lines(got)
    if _agree(wanted, lines):
        return None
    for count in range(1, len(wanted) + 1):
        if not _agree([*wanted[:count], "..."], lines):
            return f"recorded: {wanted[count - 1]}"
    return "more was printed than is recorded"


def other_outline(recorded: str, got: str) -> str | None:
    """How the lines that a text is made of differ from those of the recorded one, or None where they do not."""
    wanted, found = _outline(recorded), _outline(got)
    return None if _agree(wanted, found) else f"recorded: {' | '.join(wanted)}\nprinted: {' | '.join(found)}"


def _outline(text: str) -> list[str]:
    """First words of lines that begin at the margin, without numbers; equal neighbours and lines of a table once."""
    found: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith(" ") or not line.strip():
            continue
        word = line.split()[0]
        kind = word if word == "..." or re.fullmatch(r"[a-z]+:?", word) else "(row)"
        if found[-1:] != [kind]:
            found.append(kind)
    return found


def _lines(text: str) -> list[str]:
    return [" ".join(line.replace("\\", "/").split()) for line in text.strip().splitlines()]


def _agree(wanted: list[str], lines: list[str]) -> bool:
    if not wanted:
        return not lines
    if wanted[0] == "...":
        return any(_agree(wanted[1:], lines[skipped:]) for skipped in range(len(lines) + 1))
    return bool(lines) and line_agrees(wanted[0], lines[0]) and _agree(wanted[1:], lines[1:])


def line_agrees(wanted: str, line: str) -> bool:
    """Whether one line is the recorded one."""
    pattern, numbers = "", []
    for part in _PARTS.split(wanted):
        if part == "...":
            pattern += ".*?"
        elif _PARTS.fullmatch(part):
            pattern += f"({_NUMBER})"
            numbers.append(part)
        else:
            pattern += re.escape(part)
    match = re.fullmatch(pattern, line)
    if match is None:
        return False
    errors = [_value(n) if n.startswith("+- ") else 0.0 for n in (*numbers[1:], "")] if numbers else []
    return all(map(_near, numbers, match.groups(), errors))


def _value(text: str) -> float:
    return float(text.removeprefix("+- ").replace(",", ""))


def _near(recorded: str, got: str, error: float) -> bool:
    want, have = _value(recorded), _value(got)
    mantissa, _, exponent = recorded.partition("e")
    last_digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    allowed = SHARE * abs(want) + last_digit
    return abs(want - have) <= max(allowed, error, SIGNED if recorded[0] in "+-" else 0)
