"""Products of a compilation: files, report and warnings."""

from pathlib import Path

from lpcompile.backends.cim.build import ASSEMBLY, PROGRAM
from lpcompile.backends.cim.machine import machine_text
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
