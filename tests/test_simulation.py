"""Runs of compiled programs from Python: priced by counts, and by densities of other samples."""

import math

import pytest

import lpcompile
from lpcompile.backends.cim.build import PROGRAM
from lpcompile.backends.cim.container import from_bytes
from lpcompile.simulation import price_run, simulate
from tests.support import parse_model, random_feeds

TEXT = """
    net (float[N,4,12,12] x) => (float[N,3] y) <float[16,4,3,3] w1, float[16,3] w2, float[3] b2> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = Relu (a)
        g = GlobalAveragePool (b)
        h = Flatten (g)
        y = Gemm (h, w2, b2)
    }"""


def test_a_run_is_priced_by_counts_and_by_densities_of_other_samples() -> None:
    model = parse_model(TEXT)
    samples = [random_feeds(model, seed=i) for i in range(6)]
    made = lpcompile.compile(model, target="cim", calibration=samples, recipe="int8")
    program = from_bytes(made.files[PROGRAM])
    known, held_back = (price_run(program, random_feeds(model, seed=seed)) for seed in (10, 11))
    exact = held_back.energy
    assert held_back.result.cycles == simulate(program, random_feeds(model, seed=11)).cycles
    assert math.fsum(exact.components.values()) == pytest.approx(exact.totals.energy_pj, rel=1e-9)
    assert math.fsum(map(exact.layer_pj, exact.by_layer)) == pytest.approx(exact.totals.energy_pj, rel=1e-9)
    again = price_run(program, random_feeds(model, seed=11), densities=known.densities)
    assert "counted" in exact.conventions["activity"]
    assert "densities" in again.energy.conventions["activity"]
    assert again.energy.totals.mac_only_pj == pytest.approx(exact.totals.mac_only_pj, rel=0.05)
    assert again.densities == held_back.densities
