"""Tables and notes of derived pages."""

from collections.abc import Iterable, Sequence

NOTE = "This page is derived from the code: `python -m tests.documents.generated` writes it, and a test compares."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; bars inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in lines
    )


def code(words: Iterable[str]) -> str:
    """Words as code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def joined(*parts: str) -> str:
    """Parts with a blank line between."""
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"
