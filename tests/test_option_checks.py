"""Checks of option values: the bounds themselves, and what is neither side of them."""

from collections.abc import Callable

import pytest

from lpcompile import option_checks


def test_an_empty_text_is_allowed_but_not_shown() -> None:
    option_checks.one_of("way", "", ("", "a", "b"))
    with pytest.raises(ValueError, match=r"^option 'way' is one of a, b, not 'c'$"):
        option_checks.one_of("way", "c", ("", "a", "b"))


@pytest.mark.parametrize(
    ("check", "allowed", "refused"),
    [
        (option_checks.share, (0.0, 0.999), (-0.001, 1.0)),
        (option_checks.positive, (1e-300, 1e300), (0.0, -1.0, float("inf"))),
        (option_checks.not_negative, (0.0, 1e300), (-1e-300, float("inf"))),
    ],
)
def test_bounds_of_numbers(
    check: Callable[[str, float], None], allowed: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for value in allowed:
        check("rate", value)
    for value in (*refused, float("nan")):
        with pytest.raises(ValueError, match=f"option 'rate' is .*{value}"):
            check("rate", value)


def test_the_least_integer_is_allowed() -> None:
    option_checks.at_least("count", 1)
    option_checks.at_least("count", 0, 0)
    with pytest.raises(ValueError, match=r"^option 'count' is at least 1, not 0$"):
        option_checks.at_least("count", 0)
    with pytest.raises(ValueError, match=r"^option 'count' is at least 2, not 1$"):
        option_checks.at_least("count", 1, 2)
