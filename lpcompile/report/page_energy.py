"""Energy of a program on a machine: by component, by layer, main and side paths apart."""

from collections.abc import Mapping
from typing import Any

from lpcompile.report.page_charts import Bar, bars, keys, part
from lpcompile.report.page_tables import Column, facts, folded, html_table, is_number, note, section

MOST_LAYERS = 60
PATHS = (("main path", "main_path_macs", "mac_only_pj"), ("side paths", "side_path_macs", "side_path_pj"))


def energy(report: Mapping[str, Any]) -> str:
    """Charts and tables; empty for targets without machines."""
    found = report.get("energy") or {}
    components = found.get("components") or {}
    if not components:
        return ""
    order = sorted(components, key=lambda c: -components[c])
    colours = {c: part(i) for i, c in enumerate(order)}
    by_layer = found.get("by_layer") or {}
    totals = {name: sum(parts.values()) for name, parts in by_layer.items()}
    largest = sorted(totals, key=lambda name: -totals[name])[:MOST_LAYERS]
    whole = sum(components.values())
    machine, share = report.get("machine") or {}, found.get("assumed_share")
    parts = [(c, [Bar(components[c], _told(c, components[c], whole), colours[c])]) for c in order]
    layers = [
        (n, [Bar(by_layer[n][c], _told(c, by_layer[n][c]), colours[c]) for c in order if by_layer[n].get(c)])
        for n in largest
    ]
    rows = [
        (n, totals[n], *(by_layer[n].get(c) for c in order)) for n in sorted(totals, key=lambda n: -totals[n])
    ]
    return section(
        "energy",
        f"Energy on {machine.get('name', 'the machine')}",
        bars("Energy by component", "pJ", parts),
        bars("Energy by layer, largest first", "pJ", layers),
        keys([(colours[c], c) for c in order]),
        html_table(
            "Energy by layer, pJ", (Column("layer"), Column("all", 4), *(Column(c, 4) for c in order)), rows
        ),
        html_table(
            "Main and side paths",
            (Column("path"), Column("MACs", 3), Column("energy", 4, "pJ")),
            [(name, found.get(macs), found.get(pj)) for name, macs, pj in PATHS if is_number(found.get(pj))],
        ),
        note(_assumed(share) if is_number(share) else ""),
        folded("What these figures contain", facts(found["conventions"])) if found.get("conventions") else "",
        folded("The program", facts(_program(report))) if report.get("program") else "",
    )


def _told(component: str, picojoules: float, whole: float = 0.0) -> str:
    share = f", {picojoules / whole:.1%}" if whole else ""
    return f"{component} {picojoules:.4g} pJ{share}"


def _assumed(share: Any) -> str:
    return f"{100 * share:.0f} % of it rests on assumptions; they are listed below."


def _program(report: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in report["program"].items() if not isinstance(v, (dict, list))}
