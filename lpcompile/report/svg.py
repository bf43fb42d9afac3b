"""A chart as SVG text: bars on a logarithmic axis. No fonts, scripts or libraries beside the text."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

BAR, LEFT, WIDTH, TOP, FOOT = 18, 320, 900, 34, 44
INK, FAINT, FILL = "#222222", "#cccccc", "#3b6ea5"


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
