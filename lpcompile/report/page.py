"""`report.html`: one file that shows a `report.json`, with nothing beside it to load.

Everything comes from the document: `lpcompile report` renders the same page again. The document itself lies inside, for
programs. [architecture 2; style-and-layout (f)]
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from lpcompile.report import page_cost, page_energy, page_layers, page_passes, page_summary, page_timeline
from lpcompile.report.json import plain

Report = Mapping[str, Any]

SECTIONS = (
    page_summary.summary,
    page_layers.layers,
    page_passes.ledger,
    page_cost.cost,
    page_energy.energy,
    page_timeline.timeline,
    page_passes.passes,
    page_summary.assumptions,
    page_summary.repeat,
)


def page(report: Report) -> str:
    """The page of a report of schema 1."""
    shown = plain(report)
    found = [text for section in SECTIONS if (text := section(shown))]
    model = PurePath(str(shown["model"].get("path") or "model")).name
    title = f"{model} for {shown['target']}"
    return shell(title, found, f'<script type="application/json" id="report">{_embedded(shown)}</script>\n')


def shell(title: str, sections: Sequence[str], more: str = "") -> str:
    """A whole page: style, a heading with links to the sections, these, `more`, and the script that sorts tables."""
    links = "".join(f'<a href="#{name}">{escape(head)}</a>' for name, head in map(_heading, sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}: lpcompile</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n<nav>{links}</nav></header>\n<main>\n{''.join(sections)}</main>\n"
        f"{more}<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _heading(text: str) -> tuple[str, str]:
    """Anchor and title of a section."""
    name = text.partition('id="')[2].partition('"')[0]
    return name, text.partition("<h2>")[2].partition("</h2>")[0]


def _embedded(report: Report) -> str:
    """JSON that no text of the report can end too early."""
    text = json.dumps(report, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("lpcompile.report").joinpath(name).read_text("utf-8")
