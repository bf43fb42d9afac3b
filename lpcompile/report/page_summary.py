"""What became of the model, on one screen; what it rests on; how to repeat it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import PurePath
from typing import Any

from lpcompile.counted import counted
from lpcompile.formats.planned import short_name
from lpcompile.report.page_tables import (
    Column,
    cards,
    facts,
    folded,
    html_table,
    is_number,
    note,
    number,
    section,
)
from lpcompile.report.table import bytes_text

Report = Mapping[str, Any]
HELD_BACK = "calibration samples that decided nothing"
NOT_HELD_BACK = "samples that took part in decisions: too few to hold some back"


def summary(report: Report) -> str:
    """Figures, bounds and warnings."""
    layers = report["layers"]
    formats = Counter(short_name(layer["weight_format"]) for layer in layers)
    lead = f"{report['recipe']} recipe; " + (
        ", ".join(f"{counted(n, 'layer')} {name}" for name, n in formats.most_common())
        if layers
        else "no layers with weights"
    )
    warnings = "".join(f'<p class="warning">{escape(str(w))}</p>\n' for w in report.get("warnings", []))
    return section(
        "summary",
        "Summary",
        f'<p class="lead">{escape(lead)}</p>\n',
        cards(_figures(report)),
        _judged(report),
        warnings,
        _bounds(report),
        _checks(report),
    )


def _figures(report: Report) -> Iterator[tuple[str, str, str]]:
    totals, quality = report["totals"], report.get("quality") or {}
    sizes = (report.get("verification") or {}).get("bytes") or {}
    if is_number(totals.get("bits_per_weight")) and totals.get("weight_bytes"):
        yield "bits a weight", number(totals["bits_per_weight"]), bytes_text(totals["weight_bytes"])
    if sizes.get("float") and sizes.get("compiled"):
        before, after = sizes["float"], sizes["compiled"]
        yield "size of the file", bytes_text(after), f"{after / before:.2f} of {bytes_text(before)}"
    if is_number(quality.get("sqnr_db_output")):
        error = quality.get("sqnr_error_db")
        spread = f", standard error {error:.1f} dB" if is_number(error) else ""
        yield (
            "output against float",
            f"{quality['sqnr_db_output']:.1f} dB",
            f"signal to quantisation noise{spread}",
        )
    if is_number(quality.get("top1_agreement")):
        yield (
            "same first choice",
            f"{100 * quality['top1_agreement']:.1f} %",
            f"of {quality.get('samples')} samples",
        )
    latency = (report.get("verification") or {}).get("latency_ms")
    if isinstance(latency, Mapping) and latency.get("compiled"):
        yield "time", f"{latency['compiled']:.3g} ms", f"float: {latency['float']:.3g} ms"
    yield from _device(totals)


def _device(totals: Report) -> Iterator[tuple[str, str, str]]:
    if is_number(totals.get("energy_pj")):
        yield (
            "energy of a sample",
            f"{number(totals['energy_pj'] / 1e6)} uJ",
            "everything on the chip, and DRAM",
        )
    if is_number(totals.get("latency_ns")):
        yield "latency", f"{number(totals['latency_ns'] / 1e3)} us", "of the simulated program"
    if is_number(totals.get("tops_per_w")):
        yield "efficiency", f"{number(totals['tops_per_w'])} TOPS/W", "two operations a MAC"


def _judged(report: Report) -> str:
    quality = report.get("quality") or {}
    if not quality.get("samples"):
        return note("Not judged: no samples were given.")
    basis = HELD_BACK if quality.get("held_back") else NOT_HELD_BACK
    return note(f"Quality is that of {quality['samples']} {basis}.")


def _bounds(report: Report) -> str:
    bounds = (report.get("search") or {}).get("bounds") or (
        report.get("created_with", {}).get("options") or {}
    ).get("budget")
    if not isinstance(bounds, Mapping) or not bounds:
        return ""
    reached = _reached(report)
    columns = (Column("bound"), Column("asked for", 6), Column("reached", 6))
    return html_table("Budget", columns, [(name, bound, reached.get(name)) for name, bound in bounds.items()])


def _reached(report: Report) -> dict[str, Any]:
    totals, quality = report["totals"], report.get("quality") or {}
    found = {
        "avg-bits": totals.get("bits_per_weight"),
        "bytes": totals.get("weight_bytes"),
        "ace": totals.get("ace"),
        "acev2": totals.get("acev2_layers", totals.get("acev2")),  # a bound is of layers
        "energy-pj": totals.get("energy_pj"),
        "posit-fraction": totals.get("posit_fraction"),
        "sqnr-db": quality.get("sqnr_db_output"),
        "agreement": quality.get("top1_agreement"),
    }
    metric = report.get("metric") or {}
    return found | {"metric-drop": metric.get("drop")}


def _checks(report: Report) -> str:
    found = {k: v for k, v in (report.get("verification") or {}).items() if v is not None}
    return folded("What was checked after compiling", facts(found)) if found else ""


def assumptions(report: Report) -> str:
    """Figures that nobody measured here, and where they come from."""
    rows = [
        (a.get("what"), a.get("source"), ", ".join(a.get("used_for", [])))
        for a in report.get("assumptions", [])
    ]
    columns = (Column("what"), Column("source"), Column("used for"))
    return section("assumptions", "Assumptions", html_table(f"{len(rows)} assumptions", columns, rows))


def repeat(report: Report) -> str:
    """The command, versions and hashes."""
    created, model = report.get("created_with", {}), report["model"]
    found = {
        "model": PurePath(str(model.get("path") or "")).name,
        "sha256": model.get("sha256"),
        "opset": model.get("opset"),
        "seed": created.get("seed", 0),
        **created.get("versions", {}),
    }
    command = created.get("command")
    text = f"<pre>{escape(command)}</pre>\n" if command else ""
    return section("repeat", "To repeat it", text, folded("Versions and hashes", facts(found)))
