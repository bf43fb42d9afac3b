"""Charts as SVG text: bars and scatters on logarithmic axes. No fonts, scripts or libraries beside the text."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

BAR, LEFT, WIDTH, TOP, FOOT = 18, 320, 900, 34, 44
SIDE, MARGIN = 420, 56
INK, FAINT, FILL = "#222222", "#cccccc", "#3b6ea5"
Points = Sequence[tuple[str, float, float]]


def bars(title: str, unit: str, items: Sequence[tuple[str, float, float]]) -> str:
    """Horizontal bars, longest names cut, one standard error as a line.

    Args:
        title: above all.
        unit: of the values.
        items: (name, value, standard error); values that are not positive have no bar.
    """
    low, high = _decades([v for _, v, _ in items])
    scale = (WIDTH - LEFT - 20) / (high - low)

    def x(value: float) -> float:
        return LEFT + (min(max(math.log10(max(value, 1e-300)), low), high) - low) * scale

    height = TOP + BAR * len(items) + FOOT
    lines = [*_head(WIDTH, height, title)]
    for decade in range(math.ceil(low), math.floor(high) + 1):
        at = x(10.0**decade)
        lines.append(_line(at, TOP, at, height - FOOT, FAINT))
        lines.append(_text(at, height - FOOT + 16, f"1e{decade}", "middle"))
    for i, (name, value, error) in enumerate(items):
        y = TOP + BAR * i
        lines.append(_text(LEFT - 6, y + 12, _cut(name, 46), "end"))
        if value > 0:
            lines.append(
                f'<rect x="{LEFT}" y="{y + 3}" width="{x(value) - LEFT:.1f}" height="{BAR - 6}" fill="{FILL}"/>'
            )
        if value > 0 and error > 0:
            lines.append(_line(x(value - error), y + BAR / 2, x(value + error), y + BAR / 2, INK))
    lines.append(_text(LEFT, height - 8, unit, "start"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def scatter(title: str, across: str, up: str, points: Points) -> str:
    """One figure against another, both on logarithmic axes; points that are not positive are left out.

    Args:
        title: above all.
        across: what the horizontal axis is.
        up: what the vertical axis is.
        points: (name, across, up).
    """
    shown = [p for p in points if p[1] > 0 and p[2] > 0]
    ends = [_decades([a for _, a, _ in shown]), _decades([b for _, _, b in shown])]
    room = SIDE - 2 * MARGIN

    def place(value: float, axis: int) -> float:
        low, high = ends[axis]
        at = (math.log10(value) - low) / (high - low) * room
        return MARGIN + at if axis == 0 else SIDE - MARGIN - at

    lines = [*_head(SIDE, SIDE, title)]
    for decade in range(math.ceil(ends[0][0]), math.floor(ends[0][1]) + 1):
        at = place(10.0**decade, 0)
        lines += [
            _line(at, MARGIN, at, SIDE - MARGIN, FAINT),
            _text(at, SIDE - MARGIN + 16, f"1e{decade}", "middle"),
        ]
    for decade in range(math.ceil(ends[1][0]), math.floor(ends[1][1]) + 1):
        at = place(10.0**decade, 1)
        lines += [
            _line(MARGIN, at, SIDE - MARGIN, at, FAINT),
            _text(MARGIN - 6, at + 4, f"1e{decade}", "end"),
        ]
    for name, a, b in shown:
        spot = (
            f'<circle cx="{place(a, 0):.1f}" cy="{place(b, 1):.1f}" r="3.5" fill="{FILL}" fill-opacity="0.8">'
        )
        lines.append(f"{spot}<title>{escape(name)}</title></circle>")
    lines.append(_text(SIDE / 2, SIDE - 8, across, "middle"))
    lines.append(
        f'<text x="14" y="{SIDE / 2}" text-anchor="middle" transform="rotate(-90 14 {SIDE / 2})">{escape(up)}</text>'
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _head(width: float, height: float, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="14" fill="{INK}">{escape(title)}</text>',
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic axis that shows all positive values, at least one decade apart."""
    logs = [math.log10(v) for v in values if v > 0 and math.isfinite(v)]
    if not logs:
        return -1.0, 0.0
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return float(low), float(max(high, low + 1))


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]
