"""The conventional accelerator beside the machine."""

import math
import re
from pathlib import Path

import pytest

from lpcompile.backends.cim.digital_int8 import DigitalLayer, digital_constants, price_digital

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


def test_every_constant_has_a_source() -> None:
    _, sources = digital_constants()
    for source in sources.values():
        cited = re.findall(r"\[(\w+)\]", source)
        assert cited or source.startswith("assumed: ")
        assert all(f"{{{key}," in BIB for key in cited)
