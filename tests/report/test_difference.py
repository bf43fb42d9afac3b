"""Two reports side by side."""

import csv
import io
from typing import Any

import pytest

from lpcompile.errors import InputError
from lpcompile.report.difference import difference
from lpcompile.report.difference_text import LAYERS_SHOWN, reports_csv, reports_text


def layer(name: str, fmt: str, size: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "weight_format": fmt,
        "weight_bytes": size,
        "rounding": "nearest",
        "reason": "",
        **more,
    }


def report(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model": {"sha256": "m"},
        "target": "ort",
        "recipe": "int8",
        "created_with": {"seed": 0, "options": {}, "versions": {"numpy": "2"}},
        "layers": list(layers),
        "totals": {"weight_bytes": sum(r["weight_bytes"] for r in layers), "acev2": 8.0},
        "quality": {"sqnr_db_output": 30.0},
        **more,
    }


A = report(layer("c", "int8", 100), layer("d", "int8", 50), layer("e", "int8", 10))
B = report(
    layer("c", "int8", 100),
    layer("d", "fixp4", 26),
    layer("f", "nf4", 6),
    recipe="auto",
    quality={"sqnr_db_output": 24.5},
    created_with={"seed": 0, "options": {"effort": 2}, "versions": {"numpy": "2"}},
)


def test_what_differs_is_named() -> None:
    found = difference(A, B)
    assert found["settings"] == [
        {"name": "recipe", "a": "int8", "b": "auto"},
        {"name": "options.effort", "a": None, "b": 2},
    ]
    assert {"name": "sqnr_db", "a": 30.0, "b": 24.5} in found["whole"]
    assert {"name": "weight_bytes", "a": 160, "b": 132} in found["whole"]
    (row,) = found["layers"]
    assert (row["name"], row["decided"]) == ("d", ["weight_format"])
    assert (row["a"]["weight_format"], row["b"]["weight_format"]) == ("int8", "fixp4")
    assert (found["same"], found["only_in_a"], found["only_in_b"]) == (1, ["e"], ["f"])


def test_equal_reports_differ_in_nothing() -> None:
    found = difference(A, A)
    assert (found["settings"], found["layers"], found["same"]) == ([], [], 3)
    text = reports_text({"a": "x", "b": "y", **found})
    assert "0 layers are decided differently, 3 alike" in text
    assert "setting" not in text


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="no layer in common") as caught:
        difference(A, report(layer("z", "int8", 1)))
    assert caught.value.hint == "compare two compilations of one model"


def test_text_fits_and_csv_has_all() -> None:
    many = [layer(f"l{i}", "int8", 10) for i in range(50)]
    others = [layer(f"l{i}", "nf4", 5) for i in range(50)]
    document = {"a": "x", "b": "y", **difference(report(*many), report(*others))}
    text = reports_text(document)
    assert text.count("\nl") == 1 + LAYERS_SHOWN  # and the header
    assert f"and {50 - LAYERS_SHOWN} more" in text
    assert "0.5x" in text
    rows = list(csv.DictReader(io.StringIO(reports_csv(document))))
    assert len(rows) == 50
    assert (rows[7]["layer"], rows[7]["weight_format_a"], rows[7]["weight_bytes_b"]) == ("l7", "int8", "5")


def test_settings_are_shown_as_they_were_typed() -> None:
    budget = {"budget": {"sqnr-db": 30.0, "avg-bits": 4.5}}
    other = report(
        layer("c", "int8", 100), created_with={"seed": 0, "options": budget, "versions": {"numpy": "2"}}
    )
    text = reports_text({"a": "x", "b": "y", **difference(report(layer("c", "int8", 100)), other)})
    assert "sqnr-db=30,avg-bits=4.5" in text


def test_changes_are_said_in_their_own_way() -> None:
    text = reports_text({"a": "x", "b": "y", **difference(A, B)})
    assert "-5.5" in text  # decibels are subtracted
    assert "0.825x" in text  # bytes are divided
    assert "only in A: e" in text
