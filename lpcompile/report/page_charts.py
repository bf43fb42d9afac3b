"""Charts of `report.html`: inline SVG whose colours are those of the page, dark or light; values on hover."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lpcompile.report.page_tables import number

WIDTH, LABEL, ROW, FOOT = 720, 220, 18, 26
RIGHT = 32  # half of the longest label of a tick
LABEL_LETTERS = 31
PARTS = 8  # colours


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, or one of several stacked parts.

    Attributes:
        value: its length.
        title: on hover.
        css: class that colours it.
        error: standard error; 0: none is drawn.
    """

    value: float
    title: str
    css: str = "part-0"
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """From where to where on an axis; `title` on hover, `css` colours it."""

    start: float
    end: float
    title: str
    css: str


LARGE = 1e6  # labels of an axis have no more digits than that
Row = tuple[str, Sequence[Bar]]


def bars(caption: str, unit: str, rows: Sequence[Row]) -> str:
    """Horizontal bars, parts of a row one after the other; negative ones go left of zero.

    Args:
        caption: below.
        unit: of the axis.
        rows: names and parts, in order.
    """
    ends = [_span(parts) for _, parts in rows]
    low, high = min([0.0, *(a for a, _ in ends)]), max([0.0, *(b for _, b in ends)])
    if not rows or high <= low:
        return ""
    scale = (WIDTH - LABEL - RIGHT) / (high - low)

    def x(value: float) -> float:
        return LABEL + (value - low) * scale

    height = ROW * len(rows) + FOOT
    unit, factor = _in_thousands(unit, max(high, -low))
    shapes = [_tick(x(at), height, at / factor) for at in ticks(low, high)]
    for i, (name, parts) in enumerate(rows):
        y, at = ROW * i, 0.0
        shapes.append(
            f'<text x="{LABEL - 6}" y="{y + 13}" text-anchor="end">{escape(shortened(name))}</text>'
        )
        for part in parts:
            start, end = sorted((x(at), x(at + part.value)))
            shapes.append(
                f'<rect x="{start:.1f}" y="{y + 2}" width="{max(0.5, end - start):.1f}" height="{ROW - 4}" '
                f'class="{part.css}"><title>{escape(f"{name}: {part.title}")}</title></rect>'
            )
            at += part.value
            if part.error:
                shapes.append(
                    f'<line class="error" x1="{x(at - part.error):.1f}" x2="{x(at + part.error):.1f}" '
                    f'y1="{y + ROW / 2}" y2="{y + ROW / 2}"/>'
                )
    shapes.append(f'<text x="{WIDTH - 6}" y="{height - 2}" text-anchor="end">{escape(unit)}</text>')
    return _figure(caption, height, shapes)


def stretches(caption: str, unit: str, rows: Sequence[tuple[str, Sequence[Stretch]]]) -> str:
    """Rows of stretches on one axis from zero, those of a row below one another."""
    high = max((s.end for _, row in rows for s in row), default=0.0)
    if high <= 0:
        return ""
    scale = (WIDTH - LABEL - RIGHT) / high
    height = ROW * len(rows) + FOOT
    unit, factor = _in_thousands(unit, high)
    shapes = [_tick(LABEL + at * scale, height, at / factor) for at in ticks(0.0, high)]
    for i, (name, row) in enumerate(rows):
        y, thick = ROW * i + 2, (ROW - 4) / max(1, len(row))
        shapes.append(
            f'<text x="{LABEL - 6}" y="{y + 11}" text-anchor="end">{escape(shortened(name))}</text>'
        )
        shapes += [
            f'<rect x="{LABEL + s.start * scale:.1f}" y="{y + thick * k:.1f}" '
            f'width="{max(0.5, (s.end - s.start) * scale):.1f}" height="{thick:.1f}" class="{s.css}">'
            f"<title>{escape(f'{name}: {s.title}')}</title></rect>"
            for k, s in enumerate(row)
        ]
    shapes.append(f'<text x="{WIDTH - 6}" y="{height - 2}" text-anchor="end">{escape(unit)}</text>')
    return _figure(caption, height, shapes)


def points(caption: str, across: str, up: str, found: Sequence[tuple[float, float, str, str]]) -> str:
    """A scatter: (x, y, what it is, css class)."""
    if len(found) < 2:
        return ""
    height, left, top, foot = 300, 60, 10, 40
    xs, ys = _padded([p[0] for p in found]), _padded([p[1] for p in found])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - xs[0]) / (xs[1] - xs[0]) * (WIDTH - left - RIGHT),
            height - foot - (y - ys[0]) / (ys[1] - ys[0]) * (height - foot - top),
        )

    shapes = []
    for at in ticks(*xs):
        x, _ = place(at, ys[0])
        shapes.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - foot}"/>')
        shapes.append(f'<text x="{x:.1f}" y="{height - foot + 14}" text-anchor="middle">{number(at)}</text>')
    for at in ticks(*ys):
        _, y = place(xs[0], at)
        shapes.append(f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(at)}</text>')
    for px, py, what, css in found:
        x, y = place(px, py)
        shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{css}"><title>{escape(what)}</title></circle>'
        )
    shapes.append(f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>')
    turned = f'transform="rotate(-90 12 {height / 2})"'
    shapes.append(f'<text x="12" y="{height / 2}" text-anchor="middle" {turned}>{escape(up)}</text>')
    return _figure(caption, height, shapes)


def keys(names: Sequence[tuple[str, str]]) -> str:
    """What colours mean: (css class, name)."""
    spots = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" class="{css}"/></svg>'
        f"{escape(name)}</li>"
        for css, name in names
    )
    return f'<ul class="keys">{spots}</ul>\n'


def part(index: int) -> str:
    """Class of the index-th part; the last colour serves all others."""
    return f"part-{min(index, PARTS - 1)}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, some five of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * step) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _in_thousands(unit: str, largest: float) -> tuple[str, float]:
    """The unit of an axis and what its labels are divided by, so that labels of large numbers stay apart."""
    if largest < LARGE:
        return unit, 1.0
    power = 3 * math.floor(math.log10(largest) / 3)
    return f"{unit}, x 1e{power}", 10.0**power


def shortened(name: str) -> str:
    """A name that fits beside a bar: its end tells more than its beginning."""
    return name if len(name) <= LABEL_LETTERS else "\u2026" + name[1 - LABEL_LETTERS :]


def _figure(caption: str, height: float, shapes: Sequence[str]) -> str:
    return (
        f'<figure><div class="wide" tabindex="0" role="group" aria-label="{escape(caption)}">'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(caption)}">\n'
        + "\n".join(shapes)
        + f"\n</svg></div><figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _tick(x: float, height: float, value: float) -> str:
    return (
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - FOOT}"/>'
        f'<text x="{x:.1f}" y="{height - FOOT + 14}" text-anchor="middle">{number(value)}</text>'
    )


def _span(parts: Sequence[Bar]) -> tuple[float, float]:
    at = low = high = 0.0
    for p in parts:
        at += p.value
        low, high = min(low, at - p.error), max(high, at + p.error)
    return low, high


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.06
    return low - room, high + room
