"""Products of a compilation: files, report and warnings."""

import math
from pathlib import Path

import pytest

from lpcompile.backends.cim.build import ASSEMBLY, PROGRAM
from lpcompile.backends.cim.digital_int8 import LEFT_OUT
from lpcompile.backends.cim.machine import machine_text
from lpcompile.report.text import summary
from tests.backends.cim.network_checks import check, compiled
from tests.backends.cim.random_machines import with_values
from tests.support import parse_model, random_feeds

TEXT = """net (float[N,40] x) => (float[N,3] y) <float[40,8] w1, float[8,3] w2> {
    a = MatMul (x, w1)
    b = Relu (a)
    y = MatMul (b, w2) }"""
LOSSY = with_values(machine_text("reference"), macro__rows_active=32, macro__complement=False)


def test_what_is_reported(tmp_path: Path) -> None:
    model = parse_model(TEXT)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(4)], "reference", tmp_path)
    assert set(made.files) >= {PROGRAM, ASSEMBLY}
    report = made.report
    assert report["machine"]["name"] == "reference"
    assert report["program"]["bytes"] == len(made.files[PROGRAM])
    assert report["program"]["bytes_without_weights"] < len(made.files[PROGRAM])
    assert report["program"]["weights_stay"]
    assert report["verification"]["tiles"] == report["verification"]["lossless_tiles"] == 2
    assert report["verification"]["bit_exact_sim"]
    assert report["totals"]["energy_pj"] > 0
    assert report["host"] == []


GROUPED = """net (float[{n},8,6,6] x) => (float[{n},8,6,6] y)
    <float[8,8,3,3] w1, float[8,1,3,3] w2, float[8,4,3,3] w3> {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Conv <pads = [1, 1, 1, 1], group = 8> (a, w2)
    y = Conv <pads = [1, 1, 1, 1], group = 2> (b, w3) }}"""


@pytest.mark.sweep
@pytest.mark.parametrize(("n", "batch"), [("N", 1), ("3", 3)])
@pytest.mark.parametrize("machine", ["npp-bitplane-sram", "reference"])
def test_grouped_layers_count_without_the_zeros_between_groups(
    tmp_path: Path, n: str, batch: int, machine: str
) -> None:
    model = parse_model(GROUPED.format(n=n))
    report = compiled(model, [random_feeds(model, seed=i) for i in range(4)], machine, tmp_path).report
    energy, layers = report["energy"], report["layers"]
    digital = energy["digital_int8"]
    assert digital["weight_bytes"] == sum(math.prod(r["weight_shape"]) for r in layers) == 576 + 72 + 288
    macs = batch * 36 * (576 + 72 + 288)
    assert report["totals"]["macs"] == energy["main_path_macs"] + energy["hp_macs"] == macs
    assert digital["fetched"]["components"]["multiply"] == pytest.approx(macs * 0.2)
    moved = 3 * 2 * batch * 8 * 36 + 936 + 9 * macs / 32  # every layer reads and writes its channels once
    assert digital["fetched"]["components"]["sram"] == pytest.approx(moved * 2.5)
    assert digital["compared"] == "resident"
    assert set(report["program"]["copies"]) <= {r["name"] for r in layers}
    assert set(digital["by_layer"]) == {r["name"] for r in layers}
    assert energy["conventions"]["batch"] == batch
    assert ("a sample;" if batch == 1 else "a call of 3;") in summary(report)
    total = report["totals"]["energy_pj"]
    assert math.fsum(energy["components"].values()) == pytest.approx(total, rel=1e-9)
    parts = [e for found in energy["by_layer"].values() for e in found.values()]
    assert math.fsum(parts) == pytest.approx(total, rel=1e-9)


def test_what_stays_on_the_host_is_counted_and_said(tmp_path: Path) -> None:
    model = parse_model(TEXT.replace("y = MatMul (b, w2)", "c = MatMul (b, w2) y = Softmax (c)"))
    report = compiled(model, [random_feeds(model, seed=i) for i in range(4)], "reference", tmp_path).report
    assert report["energy"]["host_nodes"] == len(report["host"]) == 1
    assert report["energy"]["conventions"]["host"].endswith("no energy, no time")
    assert LEFT_OUT in report["energy"]["conventions"]["digital_int8"]
    text = summary(report)
    assert "of the machine (1 host node not counted)" in text
    assert "digital int8, weights in its SRAM: " in text


def test_without_a_device_stage_nothing_is_claimed(tmp_path: Path) -> None:
    model = parse_model(TEXT)
    calls = [random_feeds(model, seed=i) for i in range(4)]
    report = compiled(model, calls, "reference", tmp_path, recipe="fp32").report
    assert "energy" not in report
    assert "bit_exact_sim" not in report["verification"]
    assert any("nothing runs on the machine" in w for w in report["warnings"])
    text = summary(report)
    assert "energy  " not in text
    assert "simulated sample equals" not in text


def test_equal_compilations_give_equal_bytes(tmp_path: Path) -> None:
    model = parse_model(TEXT)
    calls = [random_feeds(model, seed=i) for i in range(4)]
    first, second = (compiled(model, calls, "reference", tmp_path) for _ in range(2))
    assert dict(first.files) == dict(second.files)


def test_tiles_that_may_clip_are_a_warning_and_no_error(tmp_path: Path) -> None:
    model = parse_model(TEXT)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(4)], LOSSY, tmp_path)
    tiles = made.report["verification"]
    assert tiles["lossless_tiles"] < tiles["tiles"]
    assert any("may leave the converter's range" in w for w in made.report["warnings"])
    assert not check(made, LOSSY, random_feeds(model, seed=9))  # held against the interpreter
