"""`--target cim` from the command line: compile, simulate, compare; machines, capacities and programs that go wrong."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcompile.backends.cim.container import read_program, to_bytes
from lpcompile.backends.cim.machine import MachineDescription, machine_text
from lpcompile.backends.cim.program import Descriptor, DeviceStage, Instruction, Space
from tests.backends.cim.build import Builder, op
from tests.backends.cim.random_machines import with_values
from tests.cli.cli_runner import error_lines, lpcompile
from tests.support import parse_model

TEXT = """net (float[{n},3,{h},6] x) => (float[{n},8,1,1] y)
    <float[20,3,3,3] w1, float[20,20,3,3] w2, float[8,20,1,1] w3> {{
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    [relu] b = Relu (a)
    [second] c = Conv <pads = [1, 1, 1, 1]> (b, w2)
    [mean] d = GlobalAveragePool (c)
    [last] y = Conv (d, w3) }}"""


def model_file(folder: Path, n: str = "N", h: str = "6", text: str = TEXT) -> Path:
    path = folder / "net.onnx"
    onnx.save(parse_model(text.format(n=n, h=h)), path)
    return path


def samples(folder: Path, count: int = 6, height: int = 6) -> Path:
    path = folder / "samples.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(count, 3, height, 6)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network compiled for the machine `reference`, which is too small for it."""
    folder = tmp_path_factory.mktemp("cim")
    words = ("--calibration-data", samples(folder), "--machine", "reference")
    result = lpcompile(model_file(folder), "-t", "cim", "--recipe", "int8", "-o", folder / "out", *words)
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_a_machine_that_is_too_small_gets_segments(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report["machine"]["name"] == "reference"
    assert report["program"]["segments"] > 1
    assert report["verification"]["bit_exact_sim"]
    assert report["host"] == []
    assert any("segments" in w for w in report["warnings"])
    assert {p.name for p in out.iterdir()} == {
        "model.onnx", "program.lpcim", "program.lpcasm", "report.json", "report.html", "decisions.toml"
    }  # fmt: skip


def test_simulation_and_model_agree_bit_for_bit(out: Path, tmp_path: Path) -> None:
    feeds = samples(tmp_path, 3)
    simulated, ran = tmp_path / "sim.npz", tmp_path / "run.npz"
    assert lpcompile("sim", out / "program.lpcim", "--input", feeds, "-o", simulated).exit_code == 0
    assert lpcompile("run", out / "model.onnx", "--input", feeds, "-o", ran).exit_code == 0
    np.testing.assert_array_equal(np.load(simulated)["y"], np.load(ran)["y"], strict=True)


def test_the_text_assembles_to_the_program(out: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.lpcim"
    data = out / "program.lpcim"
    assert lpcompile("asm", out / "program.lpcasm", "-o", again, "--data", data).exit_code == 0
    assert again.read_bytes() == data.read_bytes()


def test_damaged_programs(out: Path, tmp_path: Path) -> None:
    feeds, whole = samples(tmp_path, 1), (out / "program.lpcim").read_bytes()
    bad = tmp_path / "bad.lpcim"
    for size in (0, 7, 40, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:size])
        assert error_lines("sim", bad, "--input", feeds, code=3)[0].startswith("error: ")
    for at in range(3, len(whole), len(whole) // 12):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        assert error_lines("sim", bad, "--input", feeds, code=3)[0].startswith("error: ")


@pytest.mark.thorough
def test_a_machine_of_ones_own_and_its_hash(tmp_path: Path) -> None:
    machine = tmp_path / "mine.toml"
    machine.write_text(with_values(machine_text("reference"), core__macros=16))
    words = ("--calibration-data", samples(tmp_path), "--machine", machine)
    folder = tmp_path / "out"
    assert (
        lpcompile(model_file(tmp_path), "-t", "cim", "--recipe", "int8", "-o", folder, *words).exit_code == 0
    )
    again = ("sim", folder, "--input", samples(tmp_path, 1), "--machine", machine)
    assert lpcompile(*again).exit_code == 0
    machine.write_text(with_values(machine_text("reference"), core__macros=15))
    assert "was compiled for another" in error_lines(*again, code=3)[0]
    assert "was compiled for another" in error_lines(*again[:-2], code=3)[0]  # the built-in one of that name
    machine.write_text(with_values(machine_text("reference"), macro__rows=0))
    assert (
        "macro.rows"
        in error_lines(
            model_file(tmp_path), "-t", "cim", "--recipe", "int8", "-o", tmp_path / "no", *words, code=5
        )[0]
    )


def test_axes_that_are_not_known(tmp_path: Path) -> None:
    words = ("-t", "cim", "--recipe", "int8", "-o", tmp_path / "out", "--machine", "reference")
    model, data = model_file(tmp_path, h="H"), samples(tmp_path)
    lines = error_lines(model, *words, code=5)
    assert "axis 2 of input 'x' is not fixed ('H')" in lines[0]
    assert "--input-shape x=1x3xHx6" in lines[1]
    by_samples = lpcompile(model, *words, "--calibration-data", data)
    assert by_samples.exit_code == 0
    assert re.search(r"open sizes are those of the samples: x=\w+x3x6x6", by_samples.output)
    fixed = ("--calibration-data", samples(tmp_path, 1), "--input-shape", "x=1x3x6x6")
    assert lpcompile(model, *words, *fixed, "--force").exit_code == 0


@pytest.mark.thorough
def test_strict_and_host(tmp_path: Path) -> None:
    words = (
        "-t",
        "cim",
        "--recipe",
        "int8",
        "--machine",
        "reference",
        "--calibration-data",
        samples(tmp_path),
    )
    model = model_file(tmp_path)
    kept = ("--host", "second")
    assert lpcompile(model, *words, *kept, "-o", tmp_path / "out").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "second" in [h["node"] for h in report["host"]]
    lines = error_lines(model, *words, *kept, "--strict", "-o", tmp_path / "no", code=5)
    assert "second: the machine does not do this node" in lines[0]
    assert "--strict" in lines[1]
    assert not (tmp_path / "no").exists()
    assert lpcompile(model, *words, "--strict", "-o", tmp_path / "no").exit_code == 0


def test_a_local_buffer_that_holds_no_position(tmp_path: Path) -> None:
    text = """net (float[{n},3,{h},6] x) => (float[{n},4] y) <float[1296,4] w> {{
        a = Concat <axis = 3> (x, x, x, x, x, x, x, x, x, x, x, x)
        b = Flatten (a)
        [fc] y = MatMul (b, w) }}"""
    machine = tmp_path / "mine.toml"
    machine.write_text(with_values(machine_text("reference"), buffers__local_kib=1))
    words = ("-t", "cim", "--recipe", "int8", "--calibration-data", samples(tmp_path), "--machine", machine)
    model = model_file(tmp_path, text=text)
    assert lpcompile(model, *words, "-o", tmp_path / "out").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {
        "node": "fc",
        "reason": "the 1296 bytes that one output position reads do not fit the local buffer",
    } in (report["host"])
    assert "fc" in error_lines(model, *words, "--strict", "-o", tmp_path / "no", code=5)[0]


def hostile(folder: Path, *words: Instruction, descriptor: Descriptor | None = None) -> Path:
    """A program for `reference` that is well formed and means harm."""
    b = Builder()
    local = b.desc((4,))
    b.run[0] += words
    program = b.program()
    if descriptor is not None:
        program = replace(program, descriptors=(program.descriptors[local], descriptor))
    machine = MachineDescription.load("reference")
    path = folder / "hostile.lpcim"
    path.write_bytes(to_bytes(replace(program, machine="reference", machine_sha256=machine.sha256)))
    return path


FOREVER = [op("REPEAT", 65535, 2), op("REPEAT", 65535, 1), op("FILL", 0, 1)]


@pytest.mark.parametrize(
    ("words", "descriptor", "message"),
    [
        (FOREVER, None, "instructions"),
        ([op("WAIT", 1, 1, unit=1)], None, "waits for ever"),
        ([op("FILL", 1, 1)], Descriptor(Space.LB, "u8", (16 << 10) - 2, ((4, 1),)), "of lb, which has 16384"),
        ([op("FILL", 1, 1)], Descriptor(Space.LB, "u8", 0, ((4, 1 << 40),)), ""),
        ([op("LD", 0, 1)], Descriptor(Space.GB, "u8", 1 << 40, ((4, 1),)), ""),
        ([op("LD", 0, 1)], Descriptor(Space.GB, "u8", 2, ((4, -1),)), ""),
    ],
)
def test_hostile_programs_end_soon_and_touch_nothing(
    words: list[Instruction], descriptor: Descriptor | None, message: str, tmp_path: Path
) -> None:
    try:
        path = hostile(tmp_path, *words, descriptor=descriptor)
    except Exception as error:  # refused while it is written
        assert type(error).__name__ == "ProgramError"  # noqa: PT017
        return
    feeds = tmp_path / "feeds.npz"
    np.savez(feeds, x=np.zeros(1))
    start = time.monotonic()
    lines = error_lines("sim", path, "--input", feeds, code=3)
    assert time.monotonic() - start < 20
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_the_program_serves_one_sample_of_a_batch(out: Path) -> None:
    program = read_program(out / "program.lpcim")
    assert program.inputs[0].shape == ("N", 3, 6, 6)
    assert all(p.batch_axis for s in program.stages if isinstance(s, DeviceStage) for p in s.inputs)


@pytest.mark.thorough
def test_a_run_is_priced_by_counts_or_by_densities(out: Path, tmp_path: Path) -> None:
    words = ("sim", out / "program.lpcim", "--input", samples(tmp_path), "--json")
    exact = json.loads(lpcompile(*words, "--energy", "exact").stdout)
    parts = exact["energy"]["components"]
    assert sum(parts.values()) == pytest.approx(exact["totals"]["energy_pj"], rel=1e-9)
    assert exact["samples"] == 6
    stat = json.loads(lpcompile(*words, "--energy", "stat", "--densities", samples(tmp_path)).stdout)
    # densities of the same samples: layers differ only in how ones and weights fall together
    assert stat["totals"]["energy_pj"] == pytest.approx(exact["totals"]["energy_pj"], rel=0.05)
    message, _ = error_lines(*words[:-1], "--energy", "stat", code=2)
    assert message == "error: --energy stat and --densities go together"
