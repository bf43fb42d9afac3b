"""Formats as plans and options name them: those of `resolve`, and `lut4`, a table that is yet to be learned."""

from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.codebook import LearnedTable

LEARNED = "lut4"
_SOME_TABLE = LearnedTable(bytes(i & 255 for i in range(-120, 120, 15)))


def format_of(name: str) -> NumberFormat:
    """The format of a name in a plan; for `lut4` some learned table, for bits, image and name apart they are alike.

    Raises:
        FormatError: there is none.
    """
    return _SOME_TABLE if name == LEARNED else resolve(name)


def planned_name(name: str) -> str:
    """The name as plans hold it.

    Raises:
        FormatError: there is no such format.
    """
    return LEARNED if name == LEARNED else resolve(name).name


def short_name(name: str) -> str:
    """A format's name for people: a learned table without its digits."""
    return LEARNED if name.startswith(f"{LEARNED}:") else name
