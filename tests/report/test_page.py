"""`report.html`: whole from report.json alone, nothing loaded, nothing foreign unescaped; sorted in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpcompile
from lpcompile.errors import InputError
from lpcompile.report.json import read_report, to_json
from lpcompile.report.page import page
from lpcompile.report.page_charts import Bar, bars, points, ticks
from lpcompile.report.page_cost import elementwise_share
from lpcompile.report.page_layers import sensitivity_levels
from lpcompile.report.page_tables import Column, html_table, number
from lpcompile.report.rendering import rendered
from tests.quantizing import RESIDUAL
from tests.support import parse_model, random_feeds

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SORTED = """<script>
const heads = [...document.querySelectorAll('#layers table th')];
const bits = heads.findIndex((h) => h.textContent.startsWith('bits'));
const rows = () => [...document.querySelectorAll('#layers table tbody tr')];
const column = () => rows().map((r) => Number(r.cells[bits].dataset.value));
heads[bits].querySelector('button').click();
const up = column();
heads[bits].querySelector('button').click();
const told = { up, down: column(), wide: document.documentElement.scrollWidth - window.innerWidth };
document.documentElement.dataset.told = JSON.stringify(told);
</script>"""


class Tags(HTMLParser):
    """Opens and closes every tag in turn, and takes notes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def tags(text: str) -> Tags:
    found = Tags()
    found.feed(text)
    assert not found.open
    assert len(set(found.ids)) == len(found.ids)
    return found


@pytest.fixture(scope="module", params=["ort", "cim"])
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    model = parse_model(RESIDUAL.replace("N", "2"))
    calls = [random_feeds(model, seed=i) for i in range(12)]
    return lpcompile.compile(
        model, target=request.param, calibration=calls, budget={"avg-bits": 5.5}, effort=0
    ).report


def test_one_whole_page_that_loads_nothing(report: dict[str, Any]) -> None:
    text = page(report)
    found = tags(text)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert not re.search(r"@import|url\(|https?://", text.partition('<script type="application/json"')[0])
    wanted = {"summary", "layers", "ledger", "cost", "passes", "repeat"}
    wanted |= {"energy", "timeline", "assumptions"} if report["target"] == "cim" else set()
    assert wanted <= set(found.ids)
    assert "<svg" in text


def test_the_file_is_enough(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(to_json(report), "utf-8")
    assert page(read_report(tmp_path / "report.json")) == page(report)


def test_what_it_shows_is_in_the_report(report: dict[str, Any]) -> None:
    shown = " ".join(tags(page(report)).texts)
    for layer in report["layers"]:
        assert layer["name"] in shown
        assert layer["reason"] in shown
    for step in report["passes"]:
        changes, skips = len(step["changes"]), len(step["skips"])
        assert re.search(rf"{step['name']}: {changes} changes?, {skips} skips?, ", shown)
    assert report["created_with"]["command"] in shown
    assert f"{report['quality']['sqnr_db_output']:.1f} dB" in shown
    for component in (report.get("energy") or {}).get("components", ()):
        assert component in shown


def test_the_document_lies_inside(report: dict[str, Any]) -> None:
    inside = page(report).partition('id="report">')[2].partition("</script>")[0]
    assert json.loads(inside) == json.loads(to_json(report))


def test_foreign_texts_stay_texts(report: dict[str, Any]) -> None:
    hostile = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;'
    changed = json.loads(to_json(report))
    changed["layers"][0]["name"] = changed["layers"][0]["reason"] = hostile
    changed["passes"][0]["changes"].append({"node": hostile, "what": hostile, "before": "", "after": ""})
    changed["warnings"].append(hostile)
    changed["model"]["path"] = "/data/<b>net.onnx"
    found = tags(page(changed))
    assert page(changed).count("<script>") == 1
    assert not any("onerror" in link or link == "x" for link in found.links)
    assert hostile in found.texts


@pytest.mark.parametrize("lacking", ["layers", "passes", "totals", "model", "target", "recipe"])
def test_what_a_report_lacks_is_named(report: dict[str, Any], lacking: str) -> None:
    less = {k: v for k, v in report.items() if k != lacking}
    with pytest.raises(InputError, match=f"not a whole report: it has no key '{lacking}'"):
        rendered(page, less)
    if lacking not in ("target", "recipe"):
        with pytest.raises(InputError, match="not a whole report: it has a value of another kind"):
            rendered(page, report | {lacking: 3})


@pytest.mark.sweep
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [360, 1920])
def test_in_a_browser(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    """Columns sort both ways, nothing is wider than the window, and the console stays silent."""
    file = tmp_path / "report.html"
    file.write_text(page(report).replace("</body>", f"{SORTED}</body>"), "utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(re.search(r'data-told="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert told["up"] == sorted(told["up"])
    assert told["down"] == sorted(told["up"], reverse=True)
    assert told["wide"] <= 0
    assert "CONSOLE" not in done.stderr


def test_numbers_for_people() -> None:
    shown = [number(v) for v in (0, 12, 1234567, 0.5, 3.14159, 1234.7, 0.00001234)]
    assert shown == ["0", "12", "1\u202f234\u202f567", "0.500", "3.14", "1\u202f235", "1.23e-05"]


def test_levels_follow_the_logarithm() -> None:
    found = sensitivity_levels([{"sensitivity": v} for v in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, None, 0.0)])
    assert found == ["level-1", "level-2", "level-3", "level-4", "level-5", "level-0", "level-0"]


def test_elementwise_share_leaves_comparisons_out() -> None:
    assert elementwise_share(
        {"mac": 60.0, "shift_mac": 20.0, "norm": 20.0, "compare": 900.0}
    ) == pytest.approx(0.2)
    assert elementwise_share({}) is None


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, room: float) -> None:
    high = low + room
    if high > low:
        found = ticks(low, high)
        assert 1 <= len(found) <= 7
        slack = 1e-6 * max(abs(low), abs(high), room)
        assert all(low - slack <= t <= high + slack for t in found)


def test_bars_are_as_long_as_their_values() -> None:
    text = bars("c", "u", [("a", [Bar(1.0, "one"), Bar(2.0, "two")]), ("b", [Bar(-1.0, "less")])])
    widths = [float(w) for w in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"', text)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.11)
    assert widths[2] == pytest.approx(widths[0], abs=0.11)
    assert bars("c", "u", []) == ""
    assert bars("c", "u", [("a", [Bar(0.0, "none")])]) == ""


def test_points_of_one_value_have_room() -> None:
    text = points("c", "x", "y", [(4.0, 20.0, "a", "part-0"), (4.0, 20.0, "b", "part-0")])
    assert text.count("<circle") == 2
    assert points("c", "x", "y", [(4.0, 20.0, "a", "part-0")]) == ""


def test_a_table_without_rows_is_none() -> None:
    assert html_table("c", (Column("a"),), []) == ""


def test_columns_without_a_value_are_left_out() -> None:
    table = html_table(
        "c", (Column("a"), Column("b", 3), Column("c", 3)), [("x", None, 0), ("y", None, None)]
    )
    assert re.findall(r"<button[^>]*>(.)</button>", table) == ["a", "c"]
    assert table.count("<td") == 4


def test_long_names_break_behind_a_slash() -> None:
    name = "/features/features.1/second/conv/Conv"
    table = html_table("c", (Column("a"),), [(name,), ("/a/b",), ("<" * 40,)])
    assert name.replace("/", "/<wbr>") in table
    assert ">/a/b</td>" in table
    assert "&lt;" * 40 in table


def test_the_last_label_of_an_axis_lies_within_the_chart() -> None:
    label = 9 * 8  # letters, wider than they are
    for chart in (
        bars("c", "u", [("a", [Bar(800_000.0, "all")])]),
        points("c", "x", "y", [(100_000.0, 1.0, "a", "part-0"), (800_000.0, 2.0, "b", "part-0")]),
    ):
        ends = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">\d', chart)]
        assert max(ends) + label / 2 < 720 + 8


@pytest.mark.parametrize(
    ("value", "unit", "labels"),
    [
        (5.6e11, "ACEv2, x 1e9", ["0", "100", "500"]),
        (4000.0, "ACEv2", ["0", "1\u202f000"]),
        (2e6, "ACEv2, x 1e6", ["0.50"]),
    ],
)
def test_labels_of_large_numbers_stay_apart(value: float, unit: str, labels: list[str]) -> None:
    chart = bars("work", "ACEv2", [("before", [Bar(value, "all")])])
    assert f">{unit}</text>" in chart
    for label in labels:
        assert re.search(f">{label}0*</text>", chart), label
    assert not re.search(r">\d+(\u202f\d{3}){2,}</text>", chart)
