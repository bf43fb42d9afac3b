"""Renderings of reports that others may have written or edited: what they lack is named, not traced."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lpcompile.errors import InputError

T = TypeVar("T")


def rendered(
    render: Callable[[Mapping[str, Any]], T], report: Mapping[str, Any], where: str | Path = "report.json"
) -> T:
    """What `render` makes of a report.

    Args:
        render: of a report of schema 1.
        report: read from a file.
        where: that file.

    Raises:
        InputError: a key is missing, or holds something of another kind.
    """
    try:
        return render(report)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        told = (
            f"has no key {error}" if isinstance(error, KeyError) else f"has a value of another kind: {error}"
        )
        raise InputError(
            f"not a whole report: it {told}",
            where=str(where),
            hint="give the report.json that 'lpcompile MODEL' wrote, as it was written",
        ) from error
