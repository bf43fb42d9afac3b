"""`lpcompile sim`: programs on disk, machines, traces, errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpcompile.backends.cim.container import to_bytes
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import DeviceStage, HostStage, Interface
from lpcompile.simulation import simulate
from tests.backends.cim.build import Builder, op
from tests.cli.cli_runner import error_lines, lpcompile
from tests.support import parse_model

WEIGHTS = np.random.default_rng(2).integers(-8, 8, (6, 3))
HOST = """
<ir_version: 8, opset_import: ["": 17]>
host (int32[N, 2, 3] y) => (float[N, 2, 3] z) { z = Cast <to: int = 1> (y) }"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """z = float(x @ WEIGHTS), compiled for the machine `reference`."""
    b = Builder()
    b.nodes = ["fc"]
    b.run[0].append(op("MARK", 0))
    x = b.feed("x", (2, 6), batch=True)
    acc = b.desc((2, 3), "i32")
    b.run[0] += [op("MVM", b.group(WEIGHTS, block_rows=31), x, acc, flags=1)]
    b.fetch("y", acc, batch=True)
    stage = DeviceStage(0, tuple(b.inputs), tuple(b.outputs))
    made = b.program([stage, HostStage(parse_model(HOST).SerializeToString(), ("y",), ("z",))])
    machine = MachineDescription.load("reference")
    path = tmp_path / "program.lpcim"
    outputs = (Interface("z", "float32", ("N", 2, 3)),)
    path.write_bytes(
        to_bytes(replace(made, machine="reference", machine_sha256=machine.sha256, outputs=outputs))
    )
    return path


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    np.savez(path, x=np.random.default_rng(3).integers(0, 256, (4, 2, 6)).astype(np.uint8))
    return path


def test_outputs_are_written_under_the_graphs_names(program: Path, feeds: Path, tmp_path: Path) -> None:
    for number, more in enumerate(((), ("--planes",))):
        result = lpcompile("sim", program, "--input", feeds, "-o", tmp_path / f"{number}.npz", *more)
        assert result.exit_code == 0, result.output
        assert "4 samples" in result.stdout
        assert f"wrote {tmp_path / f'{number}.npz'}" in result.stdout
        found = np.load(tmp_path / f"{number}.npz")["z"]
        expected = np.load(feeds)["x"].astype(np.int64) @ WEIGHTS
        np.testing.assert_array_equal(found, expected.astype(np.float32), strict=True)


def test_a_folder_samples_json_and_a_trace(program: Path, feeds: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = lpcompile("sim", program.parent, "--input", feeds, "--samples", 2, "--trace", trace, "--json")
    document = json.loads(result.stdout)
    assert document["samples"] == 2
    assert document["macs"] == 2 * 2 * 6 * 3
    assert document["cycles"] > 2
    assert document["written"] == [str(trace)]
    assert document["outputs"][0]["shape"] == [2, 2, 3]
    names = [e["name"] for e in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("MVM fc") == 2
    again = lpcompile("sim", program.parent, "--input", feeds, "--trace", trace)
    assert again.exit_code == 6, again.stderr
    assert program.exists()  # what is written beside a program leaves it alone


def test_random_inputs(program: Path) -> None:
    first, second = (lpcompile("sim", program, "--random", 5, "--json") for _ in range(2))
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["outputs"] == json.loads(second.stdout)["outputs"]


def test_errors(program: Path, feeds: Path, tmp_path: Path) -> None:
    lines = error_lines("sim", program, "--input", feeds, "--max-cycles", 1, code=3)
    assert "does not end within 1 cycles" in lines[0]
    lines = error_lines("sim", program, "--input", feeds, "--machine", "isaac-ce", code=3)
    assert lines[0] == "error: the program was compiled for another 'reference' than 'isaac-ce'"
    error_lines("sim", tmp_path / "none.lpcim", code=3)
    error_lines("sim", program, "--input", feeds, "--random", 1, code=2)
    bad = tmp_path / "bad.npz"
    np.savez(bad, x=np.zeros((4, 2, 7), np.uint8))
    error_lines("sim", program, "--input", bad, code=3)


def test_the_function_behind_it(program: Path, feeds: Path) -> None:
    found = simulate(program, dict(np.load(feeds)), trace=True)
    assert found.outputs["z"].dtype == np.float32
    assert found.samples == 4
    assert [r.stage for r in found.runs] == [None, 0, 0, 0, 0]
    assert {e.node for e in found.runs[-1].trace} == {"fc", ""} - {""}
