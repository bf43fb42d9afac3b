"""The time line that Chrome and Perfetto read."""

import json

from lpcompile.backends.cim.chrome_trace import chrome_trace
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import Queue

MACHINE = MachineDescription.load("reference")


def test_spans_become_events_in_microseconds() -> None:
    spans = [(1, Queue.CIM, "conv1", 100, 350), (0, Queue.DMA, "load", 0, 7), (0, Queue.VEC, "sig", 5, 5)]
    text = chrome_trace(MACHINE, spans)
    document = json.loads(text)
    events = document["traceEvents"]
    done = [e for e in events if e["ph"] == "X"]
    assert [(e["name"], e["pid"], e["tid"], e["ts"], e["dur"]) for e in done] == [
        ("conv1", 1, 0, 1.0, 2.5),
        ("load", 0, 2, 0.0, 0.07),
    ]
    names = {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {(0, None): "core 0", (1, None): "core 1", (0, 2): "DMA", (1, 0): "CIM"}
    assert document["otherData"]["machine"] == "reference"
    assert chrome_trace(MACHINE, spans) == text


def test_names_are_escaped_and_nothing_is_an_empty_trace() -> None:
    text = chrome_trace(MACHINE, [(0, Queue.NOC, 'a"b\n<script>', 0, 1)])
    assert json.loads(text)["traceEvents"][-1]["name"] == 'a"b\n<script>'
    assert json.loads(chrome_trace(MACHINE, []))["traceEvents"] == []
