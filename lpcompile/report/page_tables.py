"""Tables and texts of `report.html`: everything foreign is escaped here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Cell = Any
MISSING = ""
WORD_LETTERS = 34  # that stay on one line


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: above it.
        digits: significant ones of its numbers; 0: it holds texts.
        unit: in the title.
    """

    title: str
    digits: int = 0
    unit: str = ""

    @property
    def shown(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def html_table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> str:
    """A table that can be sorted by every column, without columns that hold nothing; empty where there are no rows."""
    found = list(rows)
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in found)]
    columns = [columns[i] for i in kept]
    body = [_row(columns, [row[i] for i in kept]) for row in found]
    if not body:
        return ""
    head = "".join(
        f'<th scope="col"{_class(c)}><button type="button">{escape(c.shown)}</button></th>' for c in columns
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="sortable"><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>\n"
    )


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    cells = []
    for column, value in zip(columns, row, strict=True):
        if column.digits and is_number(value):
            cells.append(f'<td class="number" data-value="{value!r}">{number(value, column.digits)}</td>')
        elif column.digits:
            cells.append(f'<td class="number">{MISSING if value is None else escape(str(value))}</td>')
        else:
            text = MISSING if value is None else str(value)
            css = "word" if len(text) <= WORD_LETTERS else "text"
            cells.append(f'<td class="{css}">{_breakable(text)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _breakable(text: str) -> str:
    """Escaped; a long name breaks behind a slash before it breaks anywhere."""
    return escape(text).replace("/", "/<wbr>") if len(text) > WORD_LETTERS else escape(text)


def _class(column: Column) -> str:
    return ' class="number"' if column.digits else ""


def is_number(value: Any) -> bool:
    """Whether a value of a report is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float, digits: int = 3) -> str:
    """A number for people: thousands apart, no needless digits."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 10**15):
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Figures that stand out: (what, figure, remark)."""
    made = [
        f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}<small>{escape(remark)}</small></dd></div>"
        for what, figure, remark in items
    ]
    return f'<dl class="cards">{"".join(made)}</dl>\n' if made else ""


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with an anchor; empty where all of it is empty."""
    body = "".join(parts)
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n{body}</section>\n' if body else ""


def note(text: str) -> str:
    """A remark."""
    return f'<p class="note">{escape(text)}</p>\n' if text else ""


def folded(title: str, body: str, *, opened: bool = False) -> str:
    """What is shown on request."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{body}</details>\n"


def facts(items: Mapping[str, Any]) -> str:
    """Names and values, as a table of two columns."""
    columns = (Column("what"), Column("value"))
    return html_table("facts", columns, [(k, _plain(v)) for k, v in items.items()])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return number(value, 4) if is_number(value) else str(value)
