"""Whole networks with side paths beside int8 and beside the same bytes without: score, SQNR, bits, time.

AVG_BITS a weight with ranks chosen by `assign-formats`, and rank 8 everywhere with the bits that it takes; `w4a8` at
the bits of each stands for the same bytes without paths.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import lpcompile
from lpcompile.errors import LpcompileError
from tests.bench.bench_table import Bench
from tests.bench.experiments.entry_figures import EntryFigures, Figures
from tests.bench.experiments.results import Cell, Results
from tests.bench.timing import time_ratios

ENTRIES = ("resnet20_cifar10", "squeezenet_imagenet", "mobilenetv2_imagenet", "minilm_stsb")
QUICK = ("tiny_resnet8_cifar10",)
QUICK_SAMPLES = 100
AVG_BITS = 4.6
ROUNDS = 31
HEADER = ("entry", "metric", "recipe", "bits asked", "bits a weight", "layers with a path", "score", "score - int8",
          "standard error", "SQNR dB", "time / int8", "seconds")  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """A model, and the seconds that it took."""

    made: lpcompile.Artefacts
    seconds: float

    @property
    def bits(self) -> float:
        """Bits a weight, with all scales and factors."""
        return float(self.made.report["totals"]["bits_per_weight"])

    @property
    def paths(self) -> int:
        """Layers that have one."""
        return sum(layer["rank"] > 0 for layer in self.made.report["layers"])


def run(bench: Bench, seeds: int | None) -> Results:
    """Five models an entry."""
    del seeds
    title = "networks with side paths beside int8 and beside the same bytes without"
    made = Results("side_path_networks", title, HEADER)
    for entry in bench.names(ENTRIES, QUICK):
        for row in _rows(bench, entry, made.notes):
            made.rows.append(row)
            print(*row, sep=" | ", flush=True)
    made.notes += [
        "standard error: of paired samples, where the metric is top-1",
        f"time: one thread, medians of {ROUNDS} interleaved runs on one calibration sample",
        "seconds: of compiling, on a machine that others use as well",
    ]
    return made


def _rows(bench: Bench, entry: str, notes: list[str]) -> Iterator[tuple[Cell, ...]]:
    assert bench.zoo is not None
    figures, limit = EntryFigures(bench.zoo, entry), QUICK_SAMPLES if bench.quick else None
    metric = bench.zoo.entries[entry]["metric"]
    feeds = bench.zoo.samples(entry, limit=1)
    int8 = _compiled(bench, entry, "int8", None)
    base = figures.figures(int8.made.model, limit)
    yield entry, metric, "int8", None, int8.bits, 0, base.score, 0.0, 0.0, base.sqnr_db, 1.0, int8.seconds
    rank8: float | None = None
    for recipe, bits in (("npp", None), ("w4a8", "of rank 8"), ("npp", AVG_BITS), ("w4a8", AVG_BITS)):
        asked = rank8 if bits == "of rank 8" else bits
        try:
            found = _compiled(bench, entry, recipe, asked if asked is None else float(asked))
        except LpcompileError as error:  # its failure is a result
            notes.append(f"{entry}, {recipe} at {asked} bits: {error.message}")
            continue
        rank8 = found.bits if rank8 is None else rank8
        here = figures.figures(found.made.model, limit)
        models = {n: m.made.model.SerializeToString() for n, m in (("int8", int8), (recipe, found))}
        ratio = time_ratios(models, feeds, ROUNDS)[recipe]
        yield (entry, metric, recipe, asked, found.bits, found.paths, here.score, here.score - base.score,
               _standard_error(here, base), here.sqnr_db, ratio, found.seconds)  # fmt: skip


def _compiled(bench: Bench, entry: str, recipe: str, bits: float | None) -> Compiled:
    assert bench.zoo is not None
    budget = {} if bits is None else {"avg-bits": bits}
    start = time.perf_counter()
    rank = 8 if recipe == "npp" and bits is None else None
    made = lpcompile.compile(
        bench.zoo.model(entry), calibration=bench.zoo.samples(entry), recipe=recipe, budget=budget, rank=rank
    )
    return Compiled(made, time.perf_counter() - start)


def _standard_error(found: Figures, base: Figures) -> float | None:
    if found.right is None or base.right is None:
        return None
    return float(np.sqrt((found.right != base.right).sum()) / len(found.right))
