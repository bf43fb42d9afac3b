"""Tables and notes of derived pages."""

import html
from collections.abc import Iterable, Sequence

NOTE = "This page is derived from the code: `python -m tests.documents.generated` writes it, and a test compares."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a cell with a bar in it is spelled so that no reader of Markdown takes it for the end of a cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in lines)


def _cell(text: str) -> str:
    if "|" not in text:
        return text
    spelled = html.escape(text.strip("`"), quote=False).replace("|", "&#124;")
    return f"<code>{spelled}</code>" if text.startswith("`") else spelled


def code(words: Iterable[str]) -> str:
    """Words as code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def joined(*parts: str) -> str:
    """Parts with a blank line between."""
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"
