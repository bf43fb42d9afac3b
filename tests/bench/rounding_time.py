"""Seconds and memory of compiling to 4 bits by effort, pass by pass, each in a process of its own."""

import subprocess
from pathlib import Path

import numpy as np

from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.fresh_compile import compiled

ENTRIES = ("resnet20_cifar10", "tiny_resnet8_cifar10", "tiny_dscnn_kws", "char_gpt_shakespeare",
           "squeezenet_imagenet", "mobilenetv2_imagenet", "minilm_stsb")  # fmt: skip
QUICK = ("tiny_dscnn_kws",)
EFFORTS = (0, 1)
CASES = {
    "auto": ("auto", {"budget": {"avg-bits": 4.5}}),
    "w4a8": ("w4a8", {}),
    "w4a4": ("w4a4", {}),
}
MIB = 2**20


def measure(bench: Bench) -> Table:
    """One row an entry, recipe and effort."""
    assert bench.zoo is not None
    header = ("entry", "samples", "recipe", "effort", "seconds", "cpu seconds", "peak MiB", "above imports MiB",
              "passes")  # fmt: skip
    made = Table("compiling to 4 bits, fresh process, after imports", header)
    for entry in bench.names(ENTRIES, QUICK):
        samples = bench.zoo.samples(entry)
        data = scratch() / f"{entry}.npz"
        np.savez(data, **samples)  # type: ignore[arg-type]
        count = len(next(iter(samples.values())))
        del samples
        for name, (recipe, options) in CASES.items():
            for effort in bench.efforts or EFFORTS:
                try:
                    found = compiled(
                        bench.zoo.model(entry), data, recipe, "ort", 1, {**options, "effort": effort}
                    )
                except subprocess.CalledProcessError as error:  # its failure is a result
                    why = error.stderr.strip().splitlines()[-1:]
                    made.notes.append(f"{entry}, {name}, -O{effort} fails: {''.join(why)}")
                    continue
                shown = ", ".join(
                    f"{k} {v:.2f}"
                    for k, v in sorted(found.passes.items(), key=lambda item: -item[1])
                    if v >= 0.01
                )
                peaks = (round(b / MIB) for b in (found.whole_bytes, found.peak_bytes))
                made.rows.append(
                    (entry, count, name, effort, round(found.seconds, 2), round(found.cpu, 2), *peaks, shown)
                )
                print(*made.rows[-1], sep=" | ", flush=True)
        Path(data).unlink()
    made.notes.append(
        "passes: seconds, longest first; seconds are of a shared machine, peaks those of the whole process"
    )
    return made
