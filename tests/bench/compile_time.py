"""Compile time and memory of a ResNet-18-shaped graph, in a fresh process after imports."""

from tests.bench.bench_table import Bench, Table
from tests.bench.fresh_compile import compiled
from tests.bench.resnet18 import SAMPLES, resnet18_files

RUNS = 5


def measure(bench: Bench) -> Table:
    """Median of some runs; the peak is that above what imports took."""
    side = 64 if bench.quick else 224
    model, data = resnet18_files(side)
    made = Table(
        f"ResNet-18 ({side} x {side}, {SAMPLES} samples), fresh process, after imports",
        ("recipe", "seconds", "cpu seconds", "peak / model", "slowest passes"),
    )
    for recipe in ("int8",) if bench.quick else ("fp32", "int8", "w4a8"):
        found = compiled(model, data, recipe, "ort", 1 if bench.quick else RUNS)
        ratio = found.peak_bytes / model.stat().st_size
        made.rows.append(
            (recipe, round(found.seconds, 2), round(found.cpu, 2), round(ratio, 2), found.slowest)
        )
    made.notes.append("seconds of a shared machine; bars: int8 1.5 s (a peer: 2.4 s), peak 3 x the model")
    return made
