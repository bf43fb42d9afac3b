"""When a simulated call works on which node, by unit: what `report.json` shows of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lpcompile.backends.cim.activity import SEQUENCING, Executed
from lpcompile.backends.cim.isa import queue_of
from lpcompile.backends.cim.program import Queue


@dataclass(slots=True)
class _Span:
    start: int
    end: int
    busy: int = 0
    cores: set[int] = field(default_factory=set)


def timeline(executed: Sequence[Executed], clock_mhz: float, cores: int) -> dict[str, Any]:
    """Spans of nodes on units, in order of their starts, and how busy each unit was.

    Args:
        executed: instructions on one time line; those that only order others take no unit.
        clock_mhz: of the machine.
        cores: of the machine.

    Returns:
        `spans`: node, unit, first and last cycle, cycles that cores were busy with it (summed over cores), cores that
        took part; `units`: share of all core cycles that each unit was busy.
    """
    spans: dict[tuple[str, Queue], _Span] = {}
    last = 0
    for event in executed:
        queue = queue_of(event.instruction)
        last = max(last, event.end_cycle)
        if queue is None or event.instruction.mnemonic in SEQUENCING or event.end_cycle <= event.start_cycle:
            continue
        span = spans.setdefault((event.node, queue), _Span(event.start_cycle, event.end_cycle))
        span.start, span.end = min(span.start, event.start_cycle), max(span.end, event.end_cycle)
        span.busy += event.end_cycle - event.start_cycle
        span.cores.add(event.core)
    busy = {q: sum(s.busy for (_, unit), s in spans.items() if unit is q) for q in Queue}
    order = sorted(spans.items(), key=lambda item: (item[1].start, item[1].end, item[0][1]))
    return {
        "clock_mhz": clock_mhz,
        "cycles": last,
        "cores": cores,
        "units": {q.name.lower(): busy[q] / (last * cores) for q in Queue if busy[q]},
        "spans": [
            {
                "node": node,
                "unit": queue.name.lower(),
                "start_cycle": span.start,
                "end_cycle": span.end,
                "busy_core_cycles": span.busy,
                "cores": len(span.cores),
            }
            for (node, queue), span in order
        ],
    }
