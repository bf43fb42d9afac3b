"""Compiling in a fresh process: time and memory after imports, medians of some runs."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = """
import json, sys, time
import lpcompile.api, lpcompile.registry
lpcompile.registry.all_passes()
lpcompile.registry.target(sys.argv[4])

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts anew: imports do not count
before, start, cpu = high_water(), time.perf_counter(), time.process_time()
made = lpcompile.api.compile(sys.argv[1], calibration=sys.argv[2], recipe=sys.argv[3], target=sys.argv[4],
                             **json.loads(sys.argv[5]))
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
passes = {p["name"]: p["seconds"] for p in made.report["passes"]}
print(json.dumps({"seconds": seconds, "cpu": cpu, "bytes": high_water() - before, "whole": high_water(),
                  "passes": passes, "program": made.report.get("program", {})}))
"""


@dataclass(frozen=True)
class Compiled:
    """Medians of some compilations.

    Attributes:
        seconds, cpu: by the clock on the wall, and of all cores together.
        peak_bytes: above what imports took.
        whole_bytes: the same with what imports took.
        passes: seconds of each pass, of the last run.
        program: the section of the report, of the last run.
    """

    seconds: float
    cpu: float
    peak_bytes: float
    whole_bytes: float
    passes: dict[str, float]
    program: dict[str, Any]

    @property
    def slowest(self) -> str:
        """The slowest passes in words."""
        slow = sorted(self.passes.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{k} {v:.2f} s" for k, v in slow)


def compiled(
    model: Path, data: Path, recipe: str, target: str, runs: int, options: Mapping[str, Any] | None = None
) -> Compiled:
    """Compile a file with the samples of another.

    Args:
        model: the float model.
        data: its samples.
        recipe: by name.
        target: by name.
        runs: how many.
        options: others of `lpcompile.compile`, as JSON has them.

    Raises:
        subprocess.CalledProcessError: it does not compile; its message is in `stderr`.
    """
    words = [sys.executable, "-c", SCRIPT, str(model), str(data), recipe, target, json.dumps(options or {})]
    found = [
        json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    seconds, cpu, peak, whole = (
        statistics.median(r[k] for r in found) for k in ("seconds", "cpu", "bytes", "whole")
    )
    return Compiled(seconds, cpu, peak, whole, found[-1]["passes"], found[-1]["program"])
