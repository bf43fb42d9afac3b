"""How long compiling for `cim` takes, all products included, and how large the program is."""

from pathlib import Path

import numpy as np

from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.fresh_compile import compiled
from tests.bench.resnet18 import resnet18_files

LIMITS = {"ResNet-18": 5.0, "mobilenetv2_imagenet": 8.0}  # seconds on two cores
LIMIT_BYTES = 1_000_000  # of a program without weights
RUNS = 3
HEADER = ("network", "seconds", "limit", "cpu seconds", "instructions", "bytes without weights", "limit",
          "text bytes", "weight bytes", "segments", "slowest passes")  # fmt: skip


def measure(bench: Bench) -> Table:
    """Graph, program, proofs, one simulated sample and its energy, in a fresh process after imports."""
    made = Table("compiling int8 for cim (program, proofs, a simulated sample, energy)", HEADER)
    for name, (model, data) in _networks(bench).items():
        found = compiled(model, data, "int8", "cim", 1 if bench.quick else RUNS)
        program = found.program
        sizes = (program["bytes_without_weights"], LIMIT_BYTES, program["text_bytes"])
        made.rows.append(
            (name, round(found.seconds, 2), LIMITS[name], round(found.cpu, 2), program["instructions"], *sizes,
             program["weight_plane_bytes"], program["segments"], found.slowest)
        )  # fmt: skip
    made.notes.append("medians; seconds of a shared machine: compare cpu seconds, which two cores spend")
    return made


def _networks(bench: Bench) -> dict[str, tuple[Path, Path]]:
    found = {"ResNet-18": resnet18_files(64 if bench.quick else 224)}
    if bench.zoo is not None and not bench.quick:
        name = "mobilenetv2_imagenet"
        data = scratch() / f"{name}.npz"
        np.savez(data, **bench.zoo.samples(name))  # type: ignore[arg-type]
        found[name] = bench.zoo.model(name), data
    return found
