"""Differences of two reports, and of two models, for a terminal and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.formats.planned import short_name
from lpcompile.report.table import db_text, table

LAYERS_SHOWN = 20
ENTRIES_SHOWN = 5
TENSORS_SHOWN = 40
SHOWN = {  # of the whole, as people read it
    "sqnr_db": "SQNR, dB",
    "top1_agreement": "agreement",
    "max_abs_error": "largest error",
    "bits_per_weight": "bits a weight",
    "weight_bytes": "weight bytes",
    "file_bytes": "file bytes",
    "acev2": "ACEv2",
    "ace": "ACE",
    "energy45nm_pj": "pJ at 45 nm",
    "energy_pj": "pJ on the machine",
    "latency_ns": "ns on the machine",
    "latency_ms": "ms in ONNX Runtime",
}


def reports_text(document: Mapping[str, Any]) -> str:
    """What `report.difference.difference` found, in a screen or two."""
    lines = [f"A  {document['a']}", f"B  {document['b']}"]
    if document["settings"]:
        rows = [(s["name"], _brief(s["a"]), _brief(s["b"])) for s in document["settings"]]
        lines += ["", table(("setting", "A", "B"), rows)]
    whole = [(SHOWN.get(w["name"], w["name"]), w["a"], w["b"], _change(w)) for w in document["whole"]]
    lines += ["", table(("of the whole", "A", "B", "B against A"), whole)]
    layers = document["layers"]
    lines += [
        "",
        f"{counted(len(layers), 'layer', 'is', 'are')} decided differently, {document['same']} alike",
    ]
    if layers:
        lines.append(
            table(("layer", "A", "B", "bytes A", "bytes B"), [_layer(r) for r in layers[:LAYERS_SHOWN]])
        )
    if len(layers) > LAYERS_SHOWN:
        lines.append(f"and {len(layers) - LAYERS_SHOWN} more: --csv and --json have them all")
    if tables := document["tables"]:
        lines.append(
            table(
                ("table looked up by", "A", "B"),
                [(t["name"], t["a"] or "float32", t["b"] or "float32") for t in tables],
            )
        )
    for key, where in (("only_in_a", "A"), ("only_in_b", "B")):
        if names := document[key]:
            lines.append(f"only in {where}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    return "\n".join(lines)


def reports_csv(document: Mapping[str, Any]) -> str:
    """One row a layer that is decided differently, every key of A and B in a column."""
    keys = list(dict.fromkeys(k for row in document["layers"] for k in (*row["a"], *row["b"])))
    header = ["layer", *(f"{k}_{side}" for k in keys for side in "ab")]
    rows = [[row["name"], *(row[side].get(k) for k in keys for side in "ab")] for row in document["layers"]]
    return _csv(header, rows)


def models_text(document: Mapping[str, Any]) -> str:
    """Tensors of two models in graph order, and where the error enters."""
    tensors, entries = document["tensors"], document.get("entries")
    lines = [f"{counted(document['samples'], 'sample')} of {document['feeds']}"]
    shown, left = tensors, 0
    if len(tensors) > TENSORS_SHOWN:  # the ends, what lets error in, and the worst
        marked = {t["name"] for t in tensors if t.get("enters") or t.get("output")}
        comparable = (t for t in tensors if t["sqnr_db"] is not None and not t.get("rescaled"))
        worst = sorted(comparable, key=lambda t: t["sqnr_db"])
        for t in worst:
            if len(marked) >= TENSORS_SHOWN:
                break
            marked.add(t["name"])
        shown = [t for t in tensors if t["name"] in marked][:TENSORS_SHOWN]
        left = len(tensors) - len(shown)
    header = ["tensor", "SQNR", "max abs", "agreement", "different", "elements", ""]
    rows = [
        [
            *(t["name"], db_text(t["sqnr_db"]), t["max_abs"], t["agreement"], t["different"], t["elements"]),
            "channels scaled" if t.get("rescaled") else "",
        ]
        for t in shown
    ]
    lines.append(table(header, rows))
    if left:
        lines.append(f"and {left} better tensors: --csv and --json have them all")
    if entries is not None:
        lines += ["", *_entries(entries)]
    if unlike := document.get("unlike"):
        lines.append(
            f"of another shape, not compared: {', '.join(unlike[:8])}{', ...' if len(unlike) > 8 else ''}"
        )
    return "\n".join(lines)


def models_csv(document: Mapping[str, Any]) -> str:
    """One row a tensor, in graph order."""
    tensors = document["tensors"]
    keys = list(tensors[0]) if tensors else ["name"]
    return _csv(keys, [[t[k] for k in keys] for t in tensors])


def _entries(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    if not entries:
        return [
            "no tensor has twice the error of what it is computed from: error grows evenly, or there is none"
        ]
    rows = [
        (e["node"], e["op"], e["name"], f"{db_text(e['sources_db'])} -> {db_text(e['sqnr_db'])}")
        for e in entries[:ENTRIES_SHOWN]
    ]
    more = f", the first {ENTRIES_SHOWN} of {len(entries)}" if len(entries) > ENTRIES_SHOWN else ""
    return [f"where error enters, in graph order{more}", table(("node", "op", "tensor", "SQNR"), rows)]


def _layer(row: Mapping[str, Any]) -> list[object]:
    shown = []
    for side in "ab":
        words = [
            short_name(str(value)) if key.endswith("format") else str(value)
            for key in row["decided"]
            if (value := row[side].get(key)) not in (None, "")
        ]
        shown.append(" ".join(words) or "-")
    return [row["name"], *shown, row["a"].get("weight_bytes"), row["b"].get("weight_bytes")]


def _change(row: Mapping[str, Any]) -> str:
    a, b = row["a"], row["b"]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b)):
        return ""
    if row["name"] in ("sqnr_db", "top1_agreement", "metric"):
        return f"{b - a:+.4g}"
    return f"{b / a:.3g}x" if a else ""


def _brief(value: object) -> str:
    text = "-" if value is None else str(value)
    if isinstance(value, Mapping):  # as it was typed
        text = ",".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in value.items())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if v is None else v for v in row] for row in rows)
    return out.getvalue().rstrip("\n")
