"""formats, passes, recipes."""

import json
import tomllib

from lpcompile.formats.base import format_names, resolve
from lpcompile.registry import PASSES
from tests.cli.cli_runner import error_lines, lpcompile


def test_formats_lists_every_format() -> None:
    rows = json.loads(lpcompile("formats", "--json").stdout)["formats"]
    assert [r["name"] for r in rows] == format_names()
    assert all(r["what"] for r in rows)
    lines = lpcompile("formats").stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(rows)]] == format_names()


def test_a_format_shows_every_code() -> None:
    fmt = resolve("posit4")
    document = json.loads(lpcompile("formats", "posit4", "--json").stdout)
    values = [c["value"] for c in document["codes"]]
    assert values == [None if v != v else v for v in fmt.table().tolist()]
    assert [c["image"] for c in document["codes"] if c["value"] == 4.0] == [16]
    text = lpcompile("formats", "posit4").stdout
    assert "int8 image: exact, value = image * 0.25" in text
    assert "\n1000     8  reserved" in text
    assert "int8 image: none" in lpcompile("formats", "float8_e5m2").stdout


def test_an_unknown_format() -> None:
    assert error_lines("formats", "posit44", code=3)[0] == "error: no number format is called 'posit44'"


def test_passes_lists_the_registry_in_order() -> None:
    rows = json.loads(lpcompile("passes", "--json").stdout)["passes"]
    assert [r["name"] for r in rows] == list(PASSES)
    assert all(r["summary"] for r in rows)


def test_a_pass_shows_options_and_facts() -> None:
    text = lpcompile("passes", "quantize-weights").stdout
    assert "requires     activations-quantized" in text
    assert "establishes  weights-quantized" in text
    document = json.loads(lpcompile("passes", "quantize-weights", "--json").stdout)
    assert document["options"]["group-size"] == 32
    assert document["meanings"]["group-size"] == "inputs of a group."
    assert "of codes and scales in turn after GPTQ." in text
    assert not document["exact"]
    assert error_lines("passes", "quantise-weights", code=2) == [
        "error: no pass is called 'quantise-weights'",
        "hint: did you mean 'quantize-weights'?",
    ]


def test_recipes_are_printed_as_they_can_be_edited() -> None:
    rows = json.loads(lpcompile("recipes", "--json").stdout)["recipes"]
    assert {"fp32", "int8"} <= {r["name"] for r in rows}
    for row in rows:
        assert tomllib.loads(lpcompile("recipes", row["name"]).stdout)["summary"] == row["summary"]
    assert error_lines("recipes", "int9", code=3)[1] == "hint: did you mean 'int8'?"
