"""Accounts of graphs as a document, as tables for the terminal, and as one line of a summary."""

from collections.abc import Mapping
from typing import Any

from lpcompile.accounts.entries import Account
from lpcompile.analysis.arithmetic import COEFFICIENTS, Coefficients
from lpcompile.analysis.cost_classes import CLASSES, COMPARE, PRODUCTS
from lpcompile.counted import counted
from lpcompile.report.sensitivity import shortened
from lpcompile.report.table import bytes_text, table

NODES_SHOWN = 12
ASSUMPTIONS = (
    {
        "what": f"ACEv2 is that of the set {COEFFICIENTS}: products i*j, additions and comparisons max(i, j), shifts i",
        "source": "assumed: the table of [neseem2024] was not at hand; it follows energies at 45 nm [horowitz2014]",
    },
    {
        "what": "functions are products, sums and shifts; divisions and roots of floats take the energy of products",
        "source": "assumed: exp and erf of [kim2021], logarithm and sine of our own",
    },
)


def cost_document(
    accounts: Mapping[str, Account], coefficients: Coefficients | None = None
) -> dict[str, Any]:
    """`cost` of the report.

    Args:
        accounts: "before" and, where there is a plan, "after".
        coefficients: of ACEv2; None: the set as it stands.
    """
    by = coefficients or Coefficients()
    return {
        "set": by.name,
        **{when: a.by_class(by) for when, a in accounts.items()},
        "elementwise_share": {when: a.elementwise_share(by) for when, a in accounts.items()},
        "ace": {when: a.ace for when, a in accounts.items()},
        "energy45nm_pj": {when: a.energy45nm_pj for when, a in accounts.items()},
        "bytes_moved": {when: a.bytes for when, a in accounts.items()},
        "free_operations": {when: a.free_operations for when, a in accounts.items()},
        "nodes": {when: _nodes(a, by) for when, a in accounts.items()},
        "uncounted": {
            when: [{"node": u.node, "op": u.op, "reason": u.reason} for u in a.uncounted]
            for when, a in accounts.items()
        },
    }


def _nodes(account: Account, by: Coefficients) -> list[dict[str, Any]]:
    return [
        {
            "node": e.node,
            "op": e.op,
            "acev2": e.by_class(by),
            "energy45nm_pj": e.energy45nm_pj,
            "bytes_moved": e.bytes,
        }
        for e in account.entries
    ]


def cost_text(document: Mapping[str, Any]) -> str:
    """Tables of `cost`: by class, the most expensive nodes, and what could not be counted."""
    cost = document["cost"]
    lines = [f"cost of a call by {cost['set']}; a symbolic batch is 1", ""]
    times = [when for when in ("before", "after") if when in cost]
    totals = {when: sum(cost[when].values()) for when in times}
    rows = [
        (
            name,
            *(
                value
                for when in times
                for value in (cost[when][name], _share(cost[when][name], totals[when]))
            ),
        )
        for name in CLASSES
        if any(cost[when][name] for when in times)
    ]
    rows.append(("total", *(value for when in times for value in (totals[when], ""))))
    heads = [head for when in times for head in ("ACEv2" if len(times) == 1 else f"ACEv2 {when}", "share")]
    lines += [table(("class", *heads), rows), ""]
    for when in times:
        said = "" if len(times) == 1 else f"{when}: "
        lines.append(
            f"{said}elementwise {cost['elementwise_share'][when]:.2%} of it (comparisons left out); "
            f"ACE {cost['ace'][when]:.4g}; {cost['energy45nm_pj'][when] / 1e6:.3g} uJ of arithmetic at 45 nm; "
            f"{bytes_text(cost['bytes_moved'][when])} moved"
        )
    last = times[-1]
    lines += ["", *_most_expensive(cost["nodes"][last], totals[last])]
    missing = cost["uncounted"][last]
    if missing:
        lines += ["", *_missing(missing)]
    return "\n".join(lines)


def _share(value: float, total: float) -> str:
    return f"{value / total:.2%}" if total else "-"


def _most_expensive(nodes: list[dict[str, Any]], total: float) -> list[str]:
    """Nodes by what they cost, with the part of it that is neither products nor comparisons."""
    ranked = sorted(nodes, key=lambda n: -sum(n["acev2"].values()))[:NODES_SHOWN]
    rows = []
    for node in ranked:
        whole = sum(node["acev2"].values())
        others = sum(v for k, v in node["acev2"].items() if k not in (*PRODUCTS, COMPARE))
        rows.append(
            (shortened(node["node"]), node["op"], whole, _share(whole, total), others, node["bytes_moved"])
        )
    return [table(("node", "op", "ACEv2", "share", "elementwise", "bytes"), rows)]


def _missing(missing: list[dict[str, Any]]) -> list[str]:
    rows = [(shortened(m["node"]), m["op"], m["reason"]) for m in missing[:NODES_SHOWN]]
    more = len(missing) - len(rows)
    lines = [f"not counted: {counted(len(missing), 'node')}", table(("node", "op", "why"), rows)]
    if more > 0:
        lines.append(f"and {more} more")
    if any("fixed size" in m["reason"] or "shape" in m["reason"] for m in missing):
        lines.append("--input-shape settles symbolic axes")
    return lines


def cost_line(report: Mapping[str, Any]) -> str:
    """Share of elementwise work before and after; empty where nothing could be counted."""
    cost = report.get("cost")
    if not cost or "after" not in cost or not any(cost["after"].values()):
        return ""
    share, energy = cost["elementwise_share"], cost["energy45nm_pj"]
    text = (
        f"cost      elementwise work {share['before']:.1%} -> {share['after']:.1%} of {cost['set']}, "
        f"{sum(cost['before'].values()):.3g} -> {sum(cost['after'].values()):.3g}; "
        f"{energy['before'] / 1e6:.3g} -> {energy['after'] / 1e6:.3g} uJ at 45 nm"
    )
    missing = len(cost["uncounted"]["after"])
    return f"{text}; {counted(missing, 'node')} not counted" if missing else text
