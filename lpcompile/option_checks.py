"""Checks of option values, in the same words everywhere; they name an option as the user wrote it."""

from collections.abc import Iterable
from math import inf


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Refuse a value that is not known.

    Args:
        option: its name, kebab-case.
        value: what is given.
        known: what there is; an empty text stands for "none" and is not shown.

    Raises:
        ValueError: there is no such value.
    """
    known = tuple(known)
    if value not in known:
        raise ValueError(f"option '{option}' is one of {', '.join(filter(None, known))}, not '{value}'")


def at_least(option: str, value: float, least: float = 1) -> None:
    """Refuse a number below `least` with a ValueError."""
    if value < least:
        raise ValueError(f"option '{option}' is at least {least}, not {value}")


def share(option: str, value: float) -> None:
    """Refuse a number outside [0, 1) with a ValueError."""
    if not 0 <= value < 1:
        raise ValueError(f"option '{option}' is a share below 1, not {value}")


def positive(option: str, value: float) -> None:
    """Refuse 0, negative numbers, infinity and NaN with a ValueError."""
    if not 0 < value < inf:
        raise ValueError(f"option '{option}' is positive and finite, not {value}")


def not_negative(option: str, value: float) -> None:
    """Refuse negative numbers, infinity and NaN with a ValueError."""
    if not 0 <= value < inf:
        raise ValueError(f"option '{option}' is not negative, {value} is given")


def between(option: str, value: int, least: int, most: int) -> None:
    """Refuse an integer outside `least` to `most` with a ValueError."""
    if not least <= value <= most:
        raise ValueError(f"option '{option}' lies between {least} and {most}, not {value}")
