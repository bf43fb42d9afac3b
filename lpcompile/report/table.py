"""Plain text tables and figures with their units."""

from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: numbers to the right, the rest to the left; None shows as "-"."""
    shown = [[_cell(c) for c in row] for row in rows]
    right = [
        bool(rows) and all(row[i] is None or isinstance(row[i], (int, float)) for row in rows)
        for i in range(len(header))
    ]
    widths = [max(len(line[i]) for line in [header, *shown]) for i in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [header, *shown]
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def bytes_text(size: float) -> str:
    """A size as people read it: 1.23 MB (10^6 bytes)."""
    step = 0
    while abs(size) >= 999.5 and step < len(_UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{size:.0f} B" if step == 0 else f"{size:.3g} {_UNITS[step]}"


def db_text(value: float | None, error: float | None = None) -> str:
    """A ratio in dB, with its standard error where that is known; 200 dB stands for equal values."""
    if value is None:
        return "-"
    if value >= 200:
        return "exact"
    return f"{value:.1f} dB" if error is None else f"{value:.1f} +- {error:.1f} dB"
