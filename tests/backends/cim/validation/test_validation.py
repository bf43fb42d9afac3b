"""Predictions against published values: the page is in sync, and the limits that are met stay met."""

import re
from pathlib import Path

import pytest

from lpcompile.backends.cim.digital_int8 import price_digital
from lpcompile.backends.cim.events import PRICES, Event
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.errors import InputError
from tests.bench.cim_validation import isaac, neurosim, npp
from tests.bench.cim_validation.page import all_points, page, replaced
from tests.bench.cim_validation.point import ACCOUNT, INPUT, PREDICTED, Point
from tests.bench.cim_validation.published import sources
from tests.bench.cim_validation.vgg8 import vgg8

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs/cim/energy.md"


def row(points: list[Point], what: str) -> Point:
    (found,) = [p for p in points if p.what.startswith(what)]
    return found


def test_the_page_holds_the_tables_as_derived() -> None:
    text = PAGE.read_text("utf-8")
    hint = "run: python -m tests.bench.cim_validation docs/cim/energy.md"
    assert replaced(text) == text, hint
    assert page() in text


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(InputError, match="no place for the tables"):
        replaced("# Energy\n")


def test_464_is_reproduced_and_labelled_an_input() -> None:
    own = npp.points()[0]
    assert abs(own.error) < 1e-3
    assert own.kind == INPUT
    # 2 operations, 16 plane pairs a MAC
    assert own.predicted == pytest.approx(2000 / (16 * (0.128 + 0.024 + 7.4 / 63)), rel=1e-9)


def test_the_groups_other_figures_are_predicted_with_the_same_constants() -> None:
    _, mf_net, sparse, transform = npp.points()
    assert {p.kind for p in (mf_net, sparse, transform)} == {PREDICTED}
    five = 6 * (500 + 0.001 * 4**5) / (600 + 0.001 * 4**6)
    one = 6 * (100 + 0.001 * 4) / (600 + 0.001 * 4**6)
    assert mf_net.predicted == pytest.approx(2000 / (64 * (0.152 + (five + 1.4) / 31)))
    assert sparse.predicted == pytest.approx(4 * mf_net.predicted)
    assert transform.predicted == pytest.approx(2000 / (8 * (0.152 + (one + 1.4) / 16)))
    assert (mf_net.published, transform.published) == (105, 1602)


def test_side_paths_by_the_formula() -> None:
    rows = {width: tops for width, _, tops, _, _ in npp.side_path_rows()}
    assert sorted(rows) == [64, 128, 256, 512, 1024]
    main = 2000 / npp.points()[0].predicted
    for width, tops in rows.items():
        assert tops == pytest.approx(2000 / (main + 16 / width * 200))
    assert rows[512] == pytest.approx(189, abs=1)


def test_isaac_components_are_within_three_percent() -> None:
    for point in isaac.points():
        if point.kind == ACCOUNT:
            assert abs(point.error) <= 0.03, point
    assert abs(row(isaac.points(), "GOPS/mm2").error) <= 0.03


def test_vgg8_is_the_network_of_the_run() -> None:
    assert [layer.macs for layer in vgg8()] == [
        3538944, 150994944, 75497472, 150994944, 75497472, 150994944, 8388608, 10240,
    ]  # fmt: skip
    machine = MachineDescription.load(neurosim.NAME)
    conversions = neurosim.events(machine)[Event.CONVERSION]
    assert conversions * 73.9e-9 == pytest.approx(23.24, rel=1e-3)
    assert conversions == sum(
        positions * 8 * blocks * outputs * 8
        for positions, blocks, outputs in (
            (1024, 1, 128), (1024, 9, 128), (256, 9, 256), (256, 18, 256), (64, 18, 512), (64, 36, 512),
            (1, 64, 1024), (1, 8, 10),
        )
    )  # fmt: skip


def test_the_total_of_the_run_is_within_ten_percent() -> None:
    points = neurosim.points()
    assert abs(row(points, "total").error) <= 0.10
    assert row(points, "total").predicted == pytest.approx(sum(neurosim.parts_uj().values()))


def test_every_published_value_has_a_source_and_a_row() -> None:
    bibliography = (ROOT / "docs/references.bib").read_text("utf-8")
    for key, source in sources().items():
        assert source.strip(), key
        assert all(f"{{{cited}," in bibliography for cited in re.findall(r"\[(\w+)\]", source))
    assert len(all_points()) == len({(p.machine, p.what) for p in all_points()})


def test_vgg8_on_the_conventional_accelerator_by_hand() -> None:
    report = price_digital(layer.digital for layer in vgg8())
    assert report.macs == sum(layer.macs for layer in vgg8())
    assert report.components["multiply"] == pytest.approx(report.macs * 0.2)
    weights = sum(layer.rows * layer.outputs for layer in vgg8())
    assert report.components["dram"] == pytest.approx(8 * weights * 3.7)  # every activation fits the SRAM


def test_the_page_lists_every_component() -> None:
    text = PAGE.read_text("utf-8")
    for name in {price.component for price in PRICES.values()}:
        assert re.search(rf"^\| [^|]*\b{name}\b", text, re.MULTILINE), name
