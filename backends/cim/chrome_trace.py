"""A run's time line as Chrome trace JSON, for chrome://tracing and Perfetto: one process a core, one thread a queue."""

import json
from collections.abc import Iterable
from typing import Any

from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import Queue

Span = tuple[int, Queue, str, int, int]


def chrome_trace(machine: MachineDescription, spans: Iterable[Span]) -> str:
    """The trace of (core, queue, name, start cycle, end cycle) records; times in it are microseconds.

    Spans of no length are left out. The same spans give the same text.
    """
    us = 1 / machine.chip.clock_mhz
    events: list[dict[str, Any]] = []
    threads: set[tuple[int, Queue]] = set()
    for core, queue, name, start, end in spans:
        if end <= start:
            continue
        threads.add((core, queue))
        events.append(
            {
                "name": name,
                "ph": "X",
                "pid": core,
                "tid": int(queue),
                "ts": round(start * us, 6),
                "dur": round((end - start) * us, 6),
                "args": {"start_cycle": start, "end_cycle": end},
            }
        )
    names: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": core, "args": {"name": f"core {core}"}}
        for core in sorted({core for core, _ in threads})
    ]
    names += [
        {"name": "thread_name", "ph": "M", "pid": core, "tid": int(queue), "args": {"name": queue.name}}
        for core, queue in sorted(threads)
    ]
    document = {
        "displayTimeUnit": "ns",
        "otherData": {"machine": machine.name, "clock_mhz": machine.chip.clock_mhz},
        "traceEvents": names + events,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
