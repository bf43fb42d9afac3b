"""A sensitivity document as a page: charts and tables in the style of `report.html`, one file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.report.page import shell
from lpcompile.report.page_charts import Bar, bars, points
from lpcompile.report.page_tables import Column, html_table, is_number, note, section
from lpcompile.report.sensitivity import headline

Row = Mapping[str, Any]
MOST_BARS = 120


def page(document: Mapping[str, Any]) -> str:
    """Layers, activations where they were ranked, and how far the methods agree."""
    times = ", ".join(f"{k} {v:.1f} s" for k, v in document["seconds"].items())
    parts = [
        section("layers", "Layers", note(headline(document)), *_ranked(document["layers"], "layer")),
        section("activations", "Activations", *_ranked(document["activations"], "activation")),
        section(
            "agreement",
            "Agreement of methods",
            _correlations(document["correlation"], "layers"),
            _correlations(document["activation_correlation"], "activations"),
            note(f"Time: {times}; {document['total_seconds']:.1f} s in all."),
        ),
    ]
    return shell("Sensitivity", [p for p in parts if p])


def _ranked(rows: Sequence[Row], what: str) -> list[str]:
    if not rows:
        return []
    names = list(rows[0]["scores"])
    first = names[0]
    shown = [
        (r["name"], [Bar(r["scores"][first], f"{r['scores'][first]:.4g}", error=_error(r, first))])
        for r in rows[:MOST_BARS]
        if is_number(r["scores"][first])
    ]
    more = f" (the first {len(shown)} of {len(rows)})" if len(shown) < len(rows) else ""
    columns = (
        Column(what),
        Column("op"),
        Column("weights"),
        Column("MACs", 3),
        *(Column(n, 4) for n in names),
    )
    cells = [
        (r["name"], r.get("op"), _shape(r), r.get("macs"), *(r["scores"][n] for n in names)) for r in rows
    ]
    return [
        bars(f"Loss of each {what} by {first}{more}; standard errors as lines", first, shown),
        _against(rows, names),
        html_table(f"{counted(len(rows), what)}, the most sensitive first", columns, cells),
    ]


def _against(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The first score against the second, both as logarithms; empty where there is one only."""
    if len(names) < 2:
        return ""
    a, b = names[:2]
    known = [r for r in rows if all(is_number(r["scores"][n]) and r["scores"][n] > 0 for n in (a, b))]
    spots = [(math.log10(r["scores"][a]), math.log10(r["scores"][b]), r["name"], "part-0") for r in known]
    return points(f"{b} against {a}", f"{a}, logarithm to base 10", f"{b}, logarithm", spots)


def _correlations(found: Mapping[str, Any], what: str) -> str:
    names = found["columns"]
    if len(names) < 2:
        return ""
    rows = [
        (n, *(v if is_number(v) else None for v in row))
        for n, row in zip(names, found["spearman"], strict=True)
    ]
    return html_table(f"Rank correlation, {what}", (Column("method"), *(Column(n, 3) for n in names)), rows)


def _error(row: Row, name: str) -> float:
    error = row["standard_errors"].get(name)
    return float(error) if error is not None and is_number(error) else 0.0


def _shape(row: Row) -> str | None:
    return "x".join(map(str, row["weight_shape"])) if row.get("weight_shape") else None
