"""machines: the list, the page of one, a file of one's own."""

import json
import tomllib
from pathlib import Path

from lpcompile.backends.cim.machine import MachineDescription, machine_names
from tests.cli.cli_runner import error_lines, lpcompile


def test_the_list() -> None:
    rows = json.loads(lpcompile("machines", "--json").stdout)["machines"]
    assert [r["name"] for r in rows] == machine_names()
    assert {"npp-bitplane-sram", "isaac-ce", "tsmc22-dcim", "neurosim-22-sram", "reference"} <= set(
        machine_names()
    )
    lines = lpcompile("machines").stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(rows)]] == machine_names()
    assert lines[-1] == "'lpcompile machines NAME' shows the numbers and sources of one."


def test_the_page_of_one_shows_values_units_sources_and_what_follows() -> None:
    text = lpcompile("machines", "npp-bitplane-sram").stdout
    conversion = next(line for line in text.splitlines() if line.startswith("adc.conversion_fj"))
    assert conversion.split()[:4] == ["adc.conversion_fj", "6", "fJ", "assumed:"]
    assert "TOPS/W, MAC only" in text
    assert (
        "rows read without loss: 63, with inverted columns 127; this machine reads 63, 4 times a macro"
        in text
    )
    assert "numbers are assumptions" in text
    document = json.loads(lpcompile("machines", "npp-bitplane-sram", "--json").stdout)
    machine = MachineDescription.load("npp-bitplane-sram")
    assert document["sha256"] == machine.sha256
    assert {v["key"]: v["value"] for v in document["values"]} == machine.values()
    assert sum(v["assumed"] for v in document["values"]) == document["assumptions"]
    assert round(document["derived"]["tops_per_w_mac_only_4_bits"]) == 464


def test_a_description_can_be_copied_edited_and_shown(tmp_path: Path) -> None:
    text = lpcompile("machines", "reference", "--toml").stdout
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace('name = "reference"', 'name = "mine"'), encoding="utf-8")
    assert tomllib.loads(text)["name"] == "reference"
    assert lpcompile("machines", mine).stdout.startswith("mine: small")
    mine.write_text(text.replace("conversion_fj", "conversion"), encoding="utf-8")
    assert error_lines("machines", mine, code=5) == [
        f"error: {mine}: adc.conversion: unknown key",
        "hint: write the unit in the key: 'adc.conversion_ns' or 'adc.conversion_fj'",
    ]


def test_a_digital_machine_has_no_converters() -> None:
    text = lpcompile("machines", "tsmc22-dcim").stdout
    assert "adc." not in text
    assert "rows read without loss: 256; this machine" in text


def test_wrong_names() -> None:
    assert error_lines("machines", "npp-bitplane-srm", code=5) == [
        "error: no machine is called 'npp-bitplane-srm'",
        "hint: did you mean 'npp-bitplane-sram'?",
    ]
    assert error_lines("machines", "--toml", code=2)[0] == "error: --toml takes the name of a machine"
