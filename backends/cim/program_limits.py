"""Bounds of what a program may hold, and how their violation is reported."""

from collections.abc import Sequence
from typing import NoReturn

from lpcompile.backends.cim.program import DTYPE_BYTES, Descriptor
from lpcompile.errors import ProgramError

INT64 = -(1 << 63), (1 << 63) - 1

MOST_ENTRIES = 1 << 16  # an operand has 16 bits
MOST_STAGES = 1 << 12
MOST_ADDRESS = 1 << 48
MOST_ELEMENTS = 1 << 31
MOST_NUMBER = (1 << 31) - 1
MOST_COEFFICIENTS = 64
MOST_CHARACTERS = 4096
MOST_ISSUED = 1 << 40  # words of a stream with its repetitions
LUT_BYTES = 256
HINT = "the program is damaged: compile it again"


def extent(descriptor: Descriptor) -> tuple[int, int]:
    """First byte and end of what a descriptor reaches while every REPEAT index is 0."""
    steps = [(n - 1) * stride for n, stride in descriptor.dims]
    low = descriptor.base + sum(min(step, 0) for step in steps)
    return low, descriptor.base + sum(max(step, 0) for step in steps) + DTYPE_BYTES[descriptor.dtype]


def refuse(message: str, where: str) -> NoReturn:
    """Say that the program is damaged.

    Raises:
        ProgramError: always.
    """
    raise ProgramError(message, where=where, hint=HINT)


def check_range(value: int, low: int, high: int, what: str, where: str) -> None:
    """Refuse a value outside low to high."""
    if not low <= value <= high:
        refuse(f"{what} is {value}, outside {low} to {high}", where)


def check_all(values: Sequence[int], low: int, high: int, what: str, where: str) -> None:
    """Refuse values of which one is outside low to high."""
    if values:
        check_range(min(values), low, high, what, where)
        check_range(max(values), low, high, what, where)


def check_name(name: str, where: str, *, empty: bool = False) -> None:
    """Refuse what is no Unicode text of a sensible length."""
    if not (name or empty) or len(name) > MOST_CHARACTERS or any("\ud800" <= c <= "\udfff" for c in name):
        refuse("a name is empty, too long or no Unicode text", where)
