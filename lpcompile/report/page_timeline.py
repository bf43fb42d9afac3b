"""Time line of a simulated call: which node occupies which unit of the machine, and how busy the units are."""

from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.report.page_charts import Stretch, keys, part, stretches
from lpcompile.report.page_tables import Column, folded, html_table, note, section

MOST_NODES = 60
UNITS = {"cim": "arrays", "vec": "vector unit", "dma": "memory transfers", "noc": "between cores"}


def timeline(report: Mapping[str, Any]) -> str:
    """Chart and table; empty for targets without machines."""
    found = report.get("timeline") or {}
    spans: Sequence[Mapping[str, Any]] = found.get("spans") or ()
    if not spans:
        return ""
    us = 1 / found["clock_mhz"]
    colours = {unit: part(i) for i, unit in enumerate(UNITS)}
    names = list(dict.fromkeys(s["node"] or "(no node)" for s in spans))
    long = {
        n: max(s["end_cycle"] - s["start_cycle"] for s in spans if (s["node"] or "(no node)") == n)
        for n in names
    }
    shown = set(sorted(names, key=lambda n: -long[n])[:MOST_NODES])
    rows = [
        (
            name,
            [
                Stretch(
                    us * s["start_cycle"], us * s["end_cycle"], _told(s, us), colours.get(s["unit"], "part-7")
                )
                for s in spans
                if (s["node"] or "(no node)") == name
            ],
        )
        for name in names
        if name in shown
    ]
    table = [
        (s["node"], UNITS.get(s["unit"], s["unit"]), us * s["start_cycle"], us * s["end_cycle"],
         us * s["busy_core_cycles"], s["cores"])
        for s in spans
    ]  # fmt: skip
    columns = (Column("node"), Column("unit"), Column("start", 4, "us"), Column("end", 4, "us"),
               Column("busy, all cores", 4, "us"), Column("cores", 3))  # fmt: skip
    return section(
        "timeline",
        "Time line of a call",
        stretches("Nodes in order of their start; the longest where there are many", "us", rows),
        keys([(colours[u], UNITS[u]) for u in UNITS if u in found["units"]]),
        folded("Each span", html_table("Time line", columns, table)),
        note(_busy(found)),
    )


def _told(span: Mapping[str, Any], us: float) -> str:
    start, end, busy = (us * span[k] for k in ("start_cycle", "end_cycle", "busy_core_cycles"))
    unit = UNITS.get(span["unit"], span["unit"])
    return f"{unit}, {start:.4g} to {end:.4g} us, busy {busy:.4g} us on {span['cores']} cores"


def _busy(found: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{UNITS.get(u, u)} {100 * share:.2g} %" for u, share in found["units"].items())
    whole = found["cycles"] / found["clock_mhz"]
    return f"{whole:.4g} us at {found['clock_mhz']:g} MHz; busy, of the time of {found['cores']} cores: {shares}."
