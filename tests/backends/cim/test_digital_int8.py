"""The conventional accelerator beside the machine."""

import math
import re
from pathlib import Path

import pytest

from lpcompile.backends.cim.digital_int8 import (
    DigitalLayer,
    compare_digital,
    digital_constants,
    price_digital,
)

BIB = (Path(__file__).resolve().parents[3] / "docs/references.bib").read_text("utf-8")


def test_a_layer_by_hand() -> None:
    report = price_digital([DigitalLayer("fc", 3200, 100, 32, 50)])
    assert report.components == pytest.approx(
        {
            "multiply": 3200 * 0.2,
            "add": 3200 * 0.1,
            "registers": 3200 * 0.432,
            "sram": (900 + 182) * 2.5,  # 9 * 3200 / 32 operands and partial sums, then every byte once
            "dram": 8 * 100 * 3.7,
        }
    )
    assert report.tops_per_w == pytest.approx(6400 / report.energy_pj)
    assert 0 < report.assumed_share < 1
    assert report.to_json()["energy_pj"] == report.energy_pj


def test_activations_that_do_not_fit_leave_the_chip() -> None:
    small, large = (price_digital([DigitalLayer("a", 0, 0, size, 0)]) for size in (1 << 18, (1 << 18) + 1))
    assert small.components["dram"] == 0
    assert large.components["dram"] == pytest.approx(8 * ((1 << 18) + 1) * 3.7)


def test_layers_add_up() -> None:
    layers = [DigitalLayer(n, 1e6, 1e4, 1e3, 1e3) for n in ("a", "b", "b")]
    report = price_digital(layers)
    assert math.fsum(report.by_layer.values()) == pytest.approx(report.energy_pj, rel=1e-9)
    assert report.by_layer["b"] == pytest.approx(2 * report.by_layer["a"])
    assert price_digital([]).tops_per_w == 0


def test_weights_in_the_sram_take_no_dram() -> None:
    layers = [DigitalLayer("a", 1e6, 2e5, 1e5, 1e5), DigitalLayer("b", 1e6, 1e5, 1e5, 1e3)]
    both = compare_digital(layers, stays=True)
    assert both.resident is not None
    assert both.resident.components["dram"] == 0
    assert both.fetched.energy_pj - both.resident.energy_pj == pytest.approx(8 * 3e5 * 3.7)
    assert (both.name, both.compared) == ("resident", both.resident)
    written = compare_digital(
        layers, stays=False
    )  # a machine that writes its weights anew is compared with DRAM
    assert (written.name, written.compared) == ("fetched", written.fetched)
    document = both.to_json()
    assert document["energy_pj"] == document["resident"]["energy_pj"] < document["fetched"]["energy_pj"]
    assert (document["weight_bytes"], document["sram_kib"]) == (3e5, 512)
    assert "leakage" in document["left_out"]


@pytest.mark.parametrize(("weights", "fits"), [(511 * 1024, True), (511 * 1024 + 1, False)])
def test_weights_share_the_sram_with_activations(weights: int, fits: bool) -> None:
    both = compare_digital(
        [DigitalLayer("a", 0, weights, 512, 512), DigitalLayer("b", 0, 0, 1 << 20, 9)], stays=True
    )
    assert (both.resident is not None) is fits
    assert both.name == ("resident" if fits else "fetched")
    assert (both.to_json()["resident"] is None) is not fits


def test_every_constant_has_a_source() -> None:
    _, sources = digital_constants()
    for source in sources.values():
        cited = re.findall(r"\[(\w+)\]", source)
        assert cited or source.startswith("assumed: ")
        assert all(f"{{{key}," in BIB for key in cited)
