"""Compile time and memory of a ResNet-18-shaped graph, in a fresh process after imports."""

import json
import statistics
import subprocess
import sys

import numpy as np
import onnx

from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.resnet18 import resnet18

SAMPLES = 16
RUNS = 5
SCRIPT = """
import json, sys, time
import lpcompile.api, lpcompile.registry
lpcompile.registry.all_passes()
from lpcompile.backends.ort.target import OrtTarget

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts anew: imports do not count
before, start, cpu = high_water(), time.perf_counter(), time.process_time()
made = lpcompile.api.compile(sys.argv[1], calibration=sys.argv[2], recipe=sys.argv[3])
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
passes = {p["name"]: p["seconds"] for p in made.report["passes"]}
print(json.dumps({"seconds": seconds, "cpu": cpu, "bytes": high_water() - before, "passes": passes}))
"""


def measure(bench: Bench) -> Table:
    """Median of some runs; the peak is that above what imports took."""
    model, data = scratch() / "resnet18.onnx", scratch() / "resnet18.npz"
    onnx.save(resnet18(0, 64 if bench.quick else 224), model)
    side = 64 if bench.quick else 224
    rng = np.random.default_rng(0)
    np.savez(data, image=rng.standard_normal((SAMPLES, 3, side, side)).astype(np.float32))
    made = Table(
        f"ResNet-18 ({side} x {side}, {SAMPLES} samples), fresh process, after imports",
        ("recipe", "seconds", "cpu seconds", "peak / model", "slowest passes"),
    )
    for recipe in ("int8",) if bench.quick else ("fp32", "int8", "w4a8"):
        words = [sys.executable, "-c", SCRIPT, str(model), str(data), recipe]
        runs = [
            json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            for _ in range(1 if bench.quick else RUNS)
        ]
        middle = {k: statistics.median(r[k] for r in runs) for k in ("seconds", "cpu", "bytes")}
        slow = sorted(runs[-1]["passes"].items(), key=lambda item: -item[1])[:3]
        shown = ", ".join(f"{k} {v:.2f} s" for k, v in slow)
        ratio = middle["bytes"] / model.stat().st_size
        made.rows.append(
            (recipe, round(middle["seconds"], 2), round(middle["cpu"], 2), round(ratio, 2), shown)
        )
    made.notes.append("seconds of a shared machine; bars: int8 1.5 s (a peer: 2.4 s), peak 3 x the model")
    return made
