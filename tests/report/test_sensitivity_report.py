"""Renderings of a sensitivity document."""

import csv
from typing import Any
from xml.etree import ElementTree as ET

from lpcompile.report import svg
from lpcompile.report.sensitivity import bar_lengths, csv_of, shortened, text_of
from lpcompile.report.sensitivity_page import page


def document() -> dict[str, Any]:
    def row(name: str, fisher: float, kl: float) -> dict[str, Any]:
        scores = {"fisher": fisher, "measured kl": kl}
        errors = {"fisher": fisher / 10, "measured kl": kl / 10}
        return {
            "name": name, "op": "Conv", "weight_shape": [4, 2, 3, 3], "macs": 1000, "weight_error": 0.5,
            "scores": scores, "standard_errors": errors,
        }  # fmt: skip

    return {
        "samples": 8, "format": "int4", "granularity": "channel", "activation_format": None, "loss": "kl",
        "layers": [row("a<b", 0.1, 0.2), row("c", 0.001, 0.0)], "activations": [],
        "correlation": {"columns": ["fisher", "measured kl"], "spearman": [[1.0, 1.0], [1.0, float("nan")]]},
        "activation_correlation": {"columns": [], "spearman": []},
        "seconds": {"fisher": 1.0}, "total_seconds": 2.0,
    }  # fmt: skip


def test_bars_are_logarithmic_and_nothing_has_no_bar() -> None:
    assert bar_lengths([1.0, 0.1, 0.01, 0.0], 21) == [21, 11, 1, 0]
    assert bar_lengths([0.0, 0.0], 10) == [0, 0]


def test_text_has_a_bar_for_the_largest_layer_and_no_number_for_what_is_not_known() -> None:
    text = text_of(document())
    assert "#" * 28 in text
    assert "nan" not in text


def test_long_names_keep_their_ends() -> None:
    assert shortened("x" * 100 + "/conv").endswith("/conv")
    assert len(shortened("x" * 100)) == 44


def test_csv_holds_scores_and_standard_errors() -> None:
    rows = list(csv.DictReader(csv_of(document()).splitlines()))
    assert [r["name"] for r in rows] == ["a<b", "c"]
    assert (rows[0]["weight_shape"], rows[0]["fisher"], rows[0]["fisher standard error"]) == (
        "4x2x3x3",
        "0.1",
        "0.01",
    )


def test_the_chart_is_well_formed_and_leaves_out_what_has_no_logarithm() -> None:
    bars = ET.fromstring(svg.bars("t", "u", [("a<b", 1.0, 0.1), ("c", 0.0, 0.0)]))
    assert len(bars.findall("{*}rect")) == 2  # the background and one bar


def test_the_page_shows_every_score_and_nothing_foreign_unescaped() -> None:
    text = page(document())
    assert "a&lt;b" in text
    assert "a<b" not in text
    for shown in (
        "<h2>Layers</h2>",
        "<h2>Agreement of methods</h2>",
        "4x2x3x3",
        ">0.1000<",
        'name="viewport"',
    ):
        assert shown in text
    assert "<h2>Activations</h2>" not in text
    assert "nan" not in text.partition("<script>")[0]
    assert text.count('<rect x="220.0"') == 2  # a bar for each layer
    assert "<circle" not in text  # one of two layers has no logarithm


def test_activations_have_a_section_of_their_own() -> None:
    text = page(
        {**document(), "activations": [{"name": "x", "scores": {"fisher": 2.0}, "standard_errors": {}}]}
    )
    assert "<h2>Activations</h2>" in text
    assert "1 activations" not in text
