"""Machine descriptions: what is refused and in which words, what follows from the numbers."""

import re
from pathlib import Path

import pytest

from lpcompile.backends.cim.machine import MachineDescription, machine_names, machine_text
from lpcompile.backends.cim.machine_figures import figures, step_parts_fj
from lpcompile.backends.cim.machine_sections import unit_of
from lpcompile.errors import MachineDescriptionError

ROOT = Path(__file__).resolve().parents[3]
TEXT = machine_text("reference")
SOURCE = 'source = "assumed: x"'


def edited(old: str, new: str, *, count: int = 1) -> str:
    assert re.search(old, TEXT, re.MULTILINE), old
    return re.sub(old, new, TEXT, count=count, flags=re.MULTILINE)


def refused(text: str) -> tuple[str, str]:
    with pytest.raises(MachineDescriptionError) as found:
        MachineDescription.from_toml(text, "mine.toml")
    assert found.value.exit_code == 5
    return str(found.value).removeprefix("mine.toml: "), found.value.hint or ""


KEYED = {
    "unknown key": (
        "^rows_active.*",
        f"rows_activ = {{ value = 15, {SOURCE} }}",
        ("macro.rows_activ: unknown key", "did you mean 'macro.rows_active'?"),
    ),
    "missing unit": (
        "^conversion_fj",
        "conversion",
        (
            "adc.conversion: unknown key",
            "write the unit in the key: 'adc.conversion_ns' or 'adc.conversion_fj'",
        ),
    ),
    "another unit": (
        "^conversion_fj",
        "conversion_pj",
        ("adc.conversion_pj: unknown key", "the unit is fJ: write 'adc.conversion_fj' and convert the value"),
    ),
    "unknown section": (
        r"^\[buffers\]",
        "[buffer]",
        ("buffer: unknown section", "did you mean 'buffers'?"),
    ),
    "missing key": (
        "^step_ns.*\n",
        "",
        (
            "array.step_ns: missing",
            "write 'step_ns = { value = ..., source = \"...\" }'; nothing is inherited",
        ),
    ),
    "missing flag": (
        "^complement = true\n",
        "",
        ("macro.complement: missing", "write 'complement = true' or 'complement = false'"),
    ),
    "bare number": (
        "^lanes.*",
        "lanes = 4",
        (
            "vector.lanes: no source",
            'write { value = ..., source = "author2022, table 1" }, or a source that starts with "assumed:"',
        ),
    ),
    "empty source": (
        "^lanes.*",
        'lanes = { value = 4, source = " " }',
        ("vector.lanes.source: must be text", "put it in quotes"),
    ),
    "assumes nothing": (
        "^lanes.*",
        'lanes = { value = 4, source = "assumed:" }',
        (
            "vector.lanes.source: assumes nothing",
            'write "assumed: " in lower case, and what the assumption is',
        ),
    ),
    "stray inner key": (
        "^lanes.*",
        'lanes = { value = 4, sorce = "assumed: x" }',
        ("vector.lanes.sorce: unknown key", "did you mean 'source'?"),
    ),
    "wrong type": (
        "^lanes.*",
        f'lanes = {{ value = "four", {SOURCE} }}',
        ("vector.lanes: 'four' is no number", "a number"),
    ),
    "true is no number": (
        "^vdd_v.*",
        f"vdd_v = {{ value = true, {SOURCE} }}",
        ("chip.vdd_v: True is no number", "a number in V"),
    ),
    "not whole": (
        "^lanes.*",
        f"lanes = {{ value = 4.5, {SOURCE} }}",
        ("vector.lanes: 4.5 is not whole", "it counts things: a whole number"),
    ),
    "negative": (
        "^cell_fj.*",
        f"cell_fj = {{ value = -1.0, {SOURCE} }}",
        ("array.cell_fj: -1 is out of range", "0 to 1e+09 fJ"),
    ),
    "infinite": (
        "^cell_fj.*",
        f"cell_fj = {{ value = inf, {SOURCE} }}",
        ("array.cell_fj: inf is out of range", "0 to 1e+09 fJ"),
    ),
    "not a number": (
        "^cell_fj.*",
        f"cell_fj = {{ value = nan, {SOURCE} }}",
        ("array.cell_fj: nan is out of range", "0 to 1e+09 fJ"),
    ),
    "no supply": (
        "^vdd_v.*",
        f"vdd_v = {{ value = 0, {SOURCE} }}",
        ("chip.vdd_v: 0 is out of range", "0.05 to 20 V"),
    ),
    "impossible word": (
        '^kind = "analog_adc"',
        'kind = "analogue_adc"',
        ("macro.kind: 'analogue_adc' is not possible", "did you mean 'analog_adc'?"),
    ),
    "flag as text": (
        "^complement = true",
        'complement = "yes"',
        ("macro.complement: must be true or false", "write 'complement = true'"),
    ),
    "more active rows than rows": (
        "^rows_active.*",
        f"rows_active = {{ value = 33, {SOURCE} }}",
        ("macro.rows_active: 33 is more than macro.rows (32)", "at most 32"),
    ),
    "more columns a converter than columns": (
        "^share.*",
        f"share = {{ value = 64, {SOURCE} }}",
        (
            "adc.share: 64 is more than macro.columns (32)",
            "adc.share is the number of columns that use one converter",
        ),
    ),
    "one-bit macro with four bits": (
        '^kind = "analog_adc"',
        'kind = "analog_1b"',
        (
            "adc.bits: 4 bits, but macro.kind is 'analog_1b'",
            "write 1, or set macro.kind to 'analog_adc'",
        ),
    ),
    "tree with converters": (
        '^kind = "analog_adc"',
        'kind = "digital_tree"',
        ("adc: a digital tree has none", "remove [adc], or set macro.kind to 'analog_adc'"),
    ),
    "huge": (
        "^lanes.*",
        f"lanes = {{ value = 0x{'f' * 5000}, {SOURCE} }}",
        ("vector.lanes: a huge number is out of range", "1 to 65536"),
    ),
    "schema as flag": (
        "^schema = 1",
        "schema = true",
        ("schema: must be 1", "write 'schema = 1' at the top"),
    ),
    "schema": ("^schema = 1", "schema = 2", ("schema: must be 1", "write 'schema = 1' at the top")),
    "name": (
        '^name = "reference"',
        'name = "Re ference"',
        ("name: 'Re ference' is no name", "lower-case letters, digits, '-', '_' and '.', at most 64"),
    ),
    "section as number": (
        r"^\[noc\]\n.*\n.*\n.*\n",
        "",
        (
            "noc: missing section",
            "write [noc]; 'lpcompile machines reference --toml' prints a description to",
        ),
    ),
}


@pytest.mark.parametrize("case", KEYED)
def test_a_wrong_description_names_the_key_and_the_mend(case: str) -> None:
    old, new, (message, hint) = KEYED[case]
    found = refused(edited(old, new))
    assert found[0] == message
    assert found[1].startswith(hint)
    assert "\n" not in found[0] + found[1]


LEAST = ("local_kib", "local_bytes_per_cycle", "global_kib", "global_bytes_per_cycle", "lanes")


@pytest.mark.parametrize("key", LEAST)
def test_one_is_the_least_of_what_there_is_some_of(key: str) -> None:
    for value in (1, 0):
        text = edited(f"^{key} = {{ value = [0-9]+", f"{key} = {{ value = {value}")
        if value:
            assert MachineDescription.from_toml(text, "mine.toml").name
        else:
            assert key in refused(text)[0]


@pytest.mark.parametrize(
    "text",
    ["a = ", "x" * (300 << 10), "a = " + "[" * 5000, f"schema = {'9' * 5000}", "\x00"],
)
def test_what_is_no_description_at_all(text: str) -> None:
    message, hint = refused(text)
    assert message.startswith(("not TOML", "more than 256 KiB"))
    assert "lpcompile machines reference --toml" in hint


def test_a_source_cannot_hold_a_second_line() -> None:
    text = edited("^lanes.*", 'lanes = { value = 4, source = "a\\\\nb" }')
    assert refused(text)[0] == "vector.lanes.source: not one short line"


def test_unknown_machines_and_files(tmp_path: Path) -> None:
    with pytest.raises(MachineDescriptionError) as found:
        MachineDescription.load("isac-ce")
    assert (found.value.message, found.value.hint) == (
        "no machine is called 'isac-ce'",
        "did you mean 'isaac-ce'?",
    )
    with pytest.raises(MachineDescriptionError, match="cannot read the machine"):
        MachineDescription.load(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MachineDescriptionError, match="cannot read the machine"):
        MachineDescription.load(str(tmp_path / "bytes.toml"))
    (tmp_path / "big.toml").write_bytes(b"#" * (300 << 10))
    with pytest.raises(MachineDescriptionError, match="more than 256 KiB"):
        MachineDescription.load(str(tmp_path / "big.toml"))


def test_a_file_of_ones_own_works_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(edited('^name = "reference"', 'name = "mine"'), encoding="utf-8")
    mine, built_in = MachineDescription.load(str(path)), MachineDescription.load("reference")
    assert mine.name == "mine"
    assert mine.sha256 == built_in.sha256


def test_the_hash_is_that_of_the_values() -> None:
    found = MachineDescription.from_toml(TEXT)
    other = edited("^lanes.*", 'lanes = { source = "[me2022]", value = 4.0 } # a comment')
    assert MachineDescription.from_toml(other).sha256 == found.sha256
    changed = edited("^lanes.*", f"lanes = {{ value = 8, {SOURCE} }}")
    assert MachineDescription.from_toml(changed).sha256 != found.sha256


@pytest.mark.parametrize("name", machine_names())
def test_built_in_machines_say_where_every_number_comes_from(name: str) -> None:
    machine = MachineDescription.load(name)
    assert machine.name == name
    listed = set(
        re.findall(r"^@\w+\{(\w+),", (ROOT / "docs/references.bib").read_text("utf-8"), re.MULTILINE)
    )
    numbers = {k for k, v in machine.values().items() if isinstance(v, (int, float)) and v is not True}
    assert {k for k in numbers if not isinstance(machine.value(k), bool)} == set(machine.sources)
    for key, source in machine.sources.items():
        cited = re.findall(r"\[(\w+)\]", source)
        assert set(cited) <= listed, (key, source)
        assert cited or source.startswith("assumed: "), (key, source)
        if "fitted" in source or "from memory" in source:
            assert source.startswith("assumed: "), (key, source)


def test_every_quantity_has_a_unit() -> None:
    counts = {
        "chips", "cores_x", "cores_y", "macros", "rows", "columns", "rows_active", "share", "lanes",
        "bits_per_cell", "input_bits_per_cycle", "ops_per_mac", "input_density", "weight_density",
    }  # fmt: skip
    for name in machine_names():
        machine = MachineDescription.load(name)
        for key in machine.sources:
            assert unit_of(key) or key.rpartition(".")[2] in counts, key
    assert unit_of("adc.conversion_fj") == "fJ"
    assert unit_of("buffers.local_read_fj_per_byte") == "fJ/byte"
    assert unit_of("adc.bits") == "bits"
    assert unit_of("macro.bits_per_cell") == ""


def test_rows_without_loss() -> None:
    npp = MachineDescription.load("npp-bitplane-sram")
    assert (npp.lossless_rows(complement=False), npp.lossless_rows(complement=True)) == (63, 127)
    isaac = MachineDescription.load("isaac-ce")  # three levels a cell: 255 // 3; 511 // 3 = 170 of 128 rows
    assert (isaac.lossless_rows(complement=False), isaac.lossless_rows(complement=True)) == (85, 128)
    assert MachineDescription.load("tsmc22-dcim").lossless_rows(complement=False) == 256


def test_properties_for_the_rest_of_the_compiler() -> None:
    machine = MachineDescription.load("reference")
    assert (machine.core_count, machine.macros_per_core, machine.row_pages) == (4, 4, 2)
    assert (machine.adc_bits, machine.transfer) == (4, "clip")
    assert (machine.local_bytes, machine.global_bytes) == (16 << 10, 256 << 10)
    assert [machine.hops(core) for core in range(4)] == [0, 1, 1, 2]
    assert machine.hops(1, 2) == 2
    assert MachineDescription.load("tsmc22-dcim").adc_bits is None
    assert machine.assumptions()[0] == ("system.chips", 1, "assumed: one chip")


def test_figures_by_hand() -> None:
    npp = figures(MachineDescription.load("npp-bitplane-sram"), 4, 4)
    by_hand = 16 * (0.128 + 0.024 + 6 / 63 + 1.4 / 63)  # fJ of a 4 by 4 bit MAC
    assert npp.mac_fj == pytest.approx(by_hand, rel=1e-9)
    assert npp.tops_per_w_mac_only == pytest.approx(2000 / by_hand, rel=1e-9)
    assert npp.weights == 512 * 4 * 63 * 64

    isaac = MachineDescription.load("isaac-ce")
    assert sum(step_parts_fj(isaac).values()) == pytest.approx(128 * (390 + 234.375 + 1667 + 21))
    found = figures(isaac, 16, 16)
    assert found.mac_fj == pytest.approx(16 * 128 * 2312.375 / 2048)
    assert found.peak_tops == pytest.approx(2 * 16128 * 2048 / 1.6e-6 * 1e-12)

    tsmc = figures(MachineDescription.load("tsmc22-dcim"), 4, 4)
    assert tsmc.mac_fj == pytest.approx(16 * (3.932 / 4 + 107.87 / 256), rel=1e-9)
    assert tsmc.tops_per_w_mac_only == pytest.approx(89, rel=1e-3)

    neurosim = figures(MachineDescription.load("neurosim-22-sram"), 8, 8)
    assert neurosim.mac_fj == pytest.approx(64 * (73.9 + 12.1 + 12.33) / 128)

    reference = figures(MachineDescription.load("reference"), 4, 4)
    # 15 rows, half driven: 2 fJ a driver and 32 columns of 0.1; a quarter of 480 cells hit at 1 fJ; 61 fJ a column
    assert reference.mac_fj == pytest.approx(4 * (7.5 * 5.2 + 120 + 32 * 61) / (15 * 8))


@pytest.mark.parametrize(
    ("key", "least", "most"), [("int8_macs_per_cycle", 1, 1 << 20), ("lanes", 1, 1 << 16)]
)
def test_counts_have_two_ends(key: str, least: int, most: int) -> None:
    def of(value: int) -> str:
        return edited(f"^{key} = .*", f"{key} = {{ value = {value}, {SOURCE} }}")

    for value in (least, most):
        unit = MachineDescription.from_toml(of(value))
        assert value in (unit.hp_unit.int8_macs_per_cycle, unit.vector.lanes)
    for value in (least - 1, most + 1):
        assert refused(of(value))[0].endswith(f".{key}: {value} is out of range")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f'"{"a" * 38}"', f"'{'a' * 38}'"),
        (f'"{"a" * 39}"', f"'{'a' * 36}..."),
        (str(1 << 64), str(1 << 64)),
        (str((1 << 64) + 1), "a huge number"),
        (f"-{(1 << 64) + 1}", "a huge number"),
        ("inf", "inf"),
    ],
)
def test_what_was_found_is_shown_in_forty_characters(value: str, shown: str) -> None:
    key = "lanes" if value.lstrip("-").isdigit() else "int8_mac_fj"
    assert f": {shown} is " in refused(edited(f"^{key} = .*", f"{key} = {{ value = {value}, {SOURCE} }}"))[0]
