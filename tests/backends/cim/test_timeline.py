"""Spans of a simulated call: by hand, and against the trace that `lpcompile sim --trace` writes."""

import json
from collections import defaultdict
from pathlib import Path

import lpcompile
from lpcompile.backends.cim.activity import Executed
from lpcompile.backends.cim.build import PROGRAM
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import Instruction, Queue
from lpcompile.backends.cim.timeline import timeline
from lpcompile.simulation import simulate, trace_text
from tests.support import parse_model, random_feeds

MODEL = """m (float[N,4,6,6] x) => (float[N,5] y) <float[8,4,3,3] w, float[8] b, float[8,5] v> {
    [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu (a)
    [pool] p = GlobalAveragePool (r)  f = Flatten (p)  [head] y = MatMul (f, v)
}"""


def executed(core: int, mnemonic: str, node: str, start: int, end: int, unit: int = 0) -> Executed:
    return Executed(core, Instruction(mnemonic, unit=unit), node, start, end)


def test_spans_reach_from_the_first_to_the_last_and_add_cores_up() -> None:
    found = timeline(
        [
            executed(0, "LD", "conv", 0, 10),
            executed(0, "MVM", "conv", 10, 30),
            executed(1, "MVM", "conv", 12, 40),
            executed(0, "WAIT", "conv", 30, 90, unit=Queue.CIM),
            executed(0, "MVM", "head", 90, 100),
            executed(0, "HALT", "", 100, 100),
        ],
        500.0,
        2,
    )
    keys = ("node", "unit", "start_cycle", "end_cycle", "busy_core_cycles", "cores")
    assert [tuple(s[k] for k in keys) for s in found["spans"]] == [
        ("conv", "dma", 0, 10, 10, 1),
        ("conv", "cim", 10, 40, 48, 2),
        ("head", "cim", 90, 100, 10, 1),
    ]
    assert (found["cycles"], found["cores"], found["clock_mhz"]) == (100, 2, 500.0)
    assert found["units"] == {"cim": 58 / 200, "dma": 10 / 200}


def test_nothing_ran() -> None:
    assert timeline([], 500.0, 2)["spans"] == []


def test_the_report_of_a_compilation_agrees_with_the_trace_of_its_program(tmp_path: Path) -> None:
    model = parse_model(MODEL.replace("N", "1"))
    calls = [random_feeds(model, seed=i) for i in range(8)]
    made = lpcompile.compile(model, target="cim", calibration=calls, recipe="int8")
    line = made.report["timeline"]
    (tmp_path / PROGRAM).write_bytes(made.files[PROGRAM])
    result = simulate(tmp_path / PROGRAM, calls[0], trace=True)
    trace = json.loads(trace_text(result, MachineDescription.load(made.report["machine"]["name"])))
    us, boot = 1 / line["clock_mhz"], result.boot_cycles  # the trace begins with the boot
    first: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in trace["traceEvents"]:
        runs = event["ph"] == "X" and event["ts"] >= us * boot - 1e-9
        if runs and event["name"].split()[0] not in ("SIG", "WAIT"):
            first[event["name"].partition(" ")[2], Queue(event["tid"]).name.lower()].append(event["ts"])
    assert {(s["node"], s["unit"]) for s in line["spans"]} == set(first)
    for span in line["spans"]:
        assert abs(min(first[span["node"], span["unit"]]) - us * (boot + span["start_cycle"])) < 1e-5
    assert line["cycles"] == made.report["totals"]["cycles"]
