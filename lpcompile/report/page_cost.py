"""Arithmetic by class, before and after: the share of elementwise work, and of side paths."""

from collections.abc import Mapping
from typing import Any

from lpcompile.report.page_charts import Bar, bars, keys, part
from lpcompile.report.page_tables import Column, cards, html_table, is_number, note, number, section

PRODUCTS = ("mac", "shift_mac")
DROPPED = "compare"  # a line of its own [notes pikelpn 2.2]


def cost(report: Mapping[str, Any]) -> str:
    """Stacked bars of the classes, and a table."""
    found = report.get("cost") or {}
    sides = {when: found.get(when) or {} for when in ("before", "after")}
    totals = report["totals"]
    named = f"ACEv2, {totals['acev2_set']}" if totals.get("acev2_set") else "ACEv2"
    labels = (
        ("ace", "ACE", 1e9, "x 1e9"),
        ("acev2", named, 1e9, "x 1e9"),
        ("energy45nm_pj", "arithmetic at 45 nm", 1e6, "uJ"),
    )
    figures = [
        (label, f"{number(totals[key] / unit)} {suffix}", "")
        for key, label, unit, suffix in labels
        if is_number(totals.get(key))
    ]
    if is_number(totals.get("side_path_mac_fraction")) and totals["side_path_mac_fraction"] > 0:
        share = totals["side_path_mac_fraction"]
        figures.append(("MACs of side paths", f"{100 * share:.2f} %", "of all MACs"))
    classes = [
        c for c in dict.fromkeys([*sides["before"], *sides["after"]]) if any(s.get(c) for s in sides.values())
    ]
    rows = [
        (
            when,
            [
                Bar(values.get(c, 0.0), f"{c} {number(values.get(c, 0.0))}", part(i))
                for i, c in enumerate(classes)
            ],
        )
        for when, values in sides.items()
        if values
    ]
    table = [(c, sides["before"].get(c), sides["after"].get(c)) for c in classes]
    shares = {when: s for when, values in sides.items() if (s := elementwise_share(values)) is not None}
    text = "; ".join(f"{when} {100 * share:.1f} %" for when, share in shares.items())
    return section(
        "cost",
        "Arithmetic",
        cards(figures),
        bars("Arithmetic by class, before and after", "ACEv2", rows),
        keys([(part(i), c) for i, c in enumerate(classes)]) if rows else "",
        html_table("ACEv2 by class", (Column("class"), Column("before", 4), Column("after", 4)), table),
        note(f"Elementwise work, comparisons apart: {text}." if text else ""),
    )


def elementwise_share(by_class: Mapping[str, float]) -> float | None:
    """What is no product of a layer, comparisons left out; None where nothing was counted."""
    kept = {c: v for c, v in by_class.items() if c != DROPPED}
    total = sum(kept.values())
    return 1 - sum(kept.get(c, 0.0) for c in PRODUCTS) / total if total > 0 else None
