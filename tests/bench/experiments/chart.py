"""Line charts as SVG text: a few series over one axis, with error bars where there are several seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 640, 400
FONT = 'font-family="sans-serif" font-size="11"'
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 50
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8e5ea2", "#c77d15", "#4d4d4d", "#00898a", "#a0522d")


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: in the legend.
        x, y: points in order.
        error: half-length of the bar at each point; empty: none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = field(default_factory=tuple)


def line_chart(series: Sequence[Series], *, title: str, x: str, y: str) -> str:
    """An SVG document; the same series give the same text."""
    xs = [v for s in series for v in s.x if math.isfinite(v)]
    ys = [v + sign * e for s in series for v, e in zip(s.y, _errors(s), strict=True) for sign in (-1, 1)]
    ys = [v for v in ys if math.isfinite(v)]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))

    def px(v: float) -> float:
        return LEFT + (v - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def py(v: float) -> float:
        return HEIGHT - BOTTOM - (v - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="13">{escape(title)}</text>',
    ]
    for t in x_ticks:
        parts.append(
            f'<line x1="{px(t):.1f}" y1="{TOP}" x2="{px(t):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>'
        )
        parts.append(f'<text x="{px(t):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{t:g}</text>')
    for t in y_ticks:
        parts.append(
            f'<line x1="{LEFT}" y1="{py(t):.1f}" x2="{WIDTH - RIGHT}" y2="{py(t):.1f}" stroke="#eee"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{py(t) + 4:.1f}" text-anchor="end">{t:g}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>'
    )
    parts.append(
        f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})">{escape(y)}</text>'
    )
    for i, s in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        points = [(px(a), py(b), e) for a, b, e in zip(s.x, s.y, _errors(s), strict=True) if math.isfinite(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for (a, b, e), v in zip(points, [v for v in s.y if math.isfinite(v)], strict=True):
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>')
            if e:
                parts.append(
                    f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{py(v - e):.1f}" y2="{py(v + e):.1f}" stroke="{colour}"/>'
                )
        at = TOP + 14 + 18 * i
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{at - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 30}" y="{at}">{escape(s.label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _errors(series: Series) -> Sequence[float]:
    return series.error or (0.0,) * len(series.y)


def _ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers that cover a range."""
    if high <= low:
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]
