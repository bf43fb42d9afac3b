"""What each step gained or lost, and what every pass changed and skipped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.report.page_charts import Bar, bars
from lpcompile.report.page_tables import Column, folded, html_table, is_number, note, number, section

MOST_ROWS = 400  # of one pass
BUTTON = '<button type="button" data-open-all>open or close all</button>\n'


def ledger(report: Mapping[str, Any]) -> str:
    """Gains in dB, step by step, with their standard errors."""
    found = report.get("ledger") or []
    basis = report.get("ledger_basis") or {}
    rows = [(step["step"], [_bar(step)]) for step in found if is_number(step.get("gain_db"))]
    columns = (
        Column("step"), Column("output", 4, "dB"), Column("gain", 3, "dB"), Column("its standard error", 2, "dB"),
        Column("gain of logits", 3, "dB"), Column("its standard error", 2, "dB"), Column("seconds", 3), Column("kept"),
    )  # fmt: skip
    figures = ("sqnr_db", "gain_db", "gain_error_db", "logits_gain_db", "logits_gain_error_db", "seconds")
    told = [(s["step"], *(s.get(k) for k in figures), "yes" if s.get("kept") else "no") for s in found]
    text = f"Measured on {basis.get('samples')} samples" if basis.get("samples") else ""
    if text and basis.get("held_back"):
        text += " that decided nothing"
    if text and basis.get("outputs", 1) > 1:
        text += f", the mean noise of {basis['outputs']} outputs"
    return section(
        "ledger",
        "Gains and losses",
        bars("What each step gained or lost at the outputs", "dB", rows),
        html_table("Output signal to noise after each step", columns, told),
        note(basis.get("reason") or (f"{text}." if text else "")),
    )


def _bar(step: Mapping[str, Any]) -> Bar:
    css = "gain" if step["gain_db"] >= 0 else "loss"
    return Bar(step["gain_db"], _told(step), css, step.get("gain_error_db") or 0.0)


def _told(step: Mapping[str, Any]) -> str:
    error = f" +- {step['gain_error_db']:.2f}" if is_number(step.get("gain_error_db")) else ""
    return f"{step['gain_db']:+.2f}{error} dB, then {step['sqnr_db']:.2f} dB"


def passes(report: Mapping[str, Any]) -> str:
    """One fold a pass: its time, its figures, what it changed, what it skipped and why."""
    found = report["passes"]
    if not found:
        return ""
    times = [(p["name"], [Bar(p["seconds"], f"{p['seconds']:.3g} s")]) for p in found if p["seconds"] > 0]
    return section(
        "passes",
        "Passes",
        bars("Time of each pass", "s", times),
        BUTTON,
        *(_pass(p) for p in found),
    )


def _pass(found: Mapping[str, Any]) -> str:
    changes, skips = found["changes"], found["skips"]
    counts = f"{counted(len(changes), 'change')}, {counted(len(skips), 'skip')}"
    title = f"{found['name']}: {counts}, {found['seconds']:.3g} s"
    reasons = Counter(s["reason"] for s in skips)
    figures = [(k, v) for k, v in found["metrics"].items() if v is not None]
    body = (
        html_table("Figures", (Column("what"), Column("value", 4)), figures)
        + html_table(
            _limited("Changes", changes),
            (Column("node"), Column("what"), Column("before"), Column("after")),
            [(c["node"], c["what"], c["before"], c["after"]) for c in changes[:MOST_ROWS]],
        )
        + html_table("Reasons of skips", (Column("reason"), Column("nodes", 3)), reasons.most_common())
        + html_table(
            _limited("Skips", skips),
            (Column("node"), Column("reason")),
            [(s["node"], s["reason"]) for s in skips[:MOST_ROWS]],
        )
    )
    return folded(title, body or note("It found nothing to do."))


def _limited(what: str, rows: Sequence[Any]) -> str:
    if len(rows) <= MOST_ROWS:
        return what
    return f"{what}: the first {MOST_ROWS} of {number(len(rows))}; all are in report.json"
