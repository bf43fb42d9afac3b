"""Side paths of rank 0, 4, 8 and 16 beside codes of several formats, rounded to nearest and by GPTQ.

Every layer has a path whatever it costs in products. Paths beside nearest codes repair them (`qera`); with GPTQ the
large directions are taken out first (`lowrank-first`) and codes are rounded once more at the end, as the recipe `npp`
does. Output SQNR and score on evaluation samples.
"""

from collections.abc import Iterator

import lpcompile
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.entry_figures import EntryFigures
from tests.bench.experiments.prepared_entry import FOLDS
from tests.bench.experiments.results import Cell, Results

ENTRIES = ("tiny_resnet8_cifar10", "char_gpt_shakespeare")
QUICK = ("tiny_resnet8_cifar10",)
FORMATS = ("fixp4", "posit4", "nf4")
RANKS = (0, 4, 8, 16)
CODES = "granularity=group, group-size=32, rule=output-mse, scale-format=ufloat8_e4m4"
ROUNDINGS = {  # of codes, method of the path, what comes afterwards
    "nearest": ("rounding=nearest", "qera", "correct-bias"),
    "gptq": ("rounding=gptq, sweeps=0", "lowrank-first", "correct-bias, requantize-weights"),
}
HEADER = (
    "entry",
    "format",
    "rounding",
    "rank",
    "layers with a path",
    "bits a weight",
    "metric",
    "score",
    "SQNR dB",
)


def run(bench: Bench, seeds: int | None) -> Results:
    """Every combination on every entry."""
    del seeds
    made = Results("side_path_ranks", "ranks of side paths by format and rounding", HEADER)
    for entry in bench.names(ENTRIES, QUICK):
        rows = list(_rows(bench, entry))
        made.rows += rows
        for row in rows:
            print(*row, sep=" | ", flush=True)
        series = [
            Series(f"{f}, {r}", RANKS, [float(row[-1] or 0) for row in rows if row[1:3] == (f, r)])
            for f in FORMATS
            for r in ROUNDINGS
        ]
        made.chart(series, x="rank", y=f"output SQNR of {entry}, dB", suffix=entry)
    made.notes.append("bits: with factors and all scales; score on all evaluation samples")
    return made


def _rows(bench: Bench, entry: str) -> Iterator[tuple[Cell, ...]]:
    assert bench.zoo is not None
    figures, samples = EntryFigures(bench.zoo, entry), bench.zoo.samples(entry)
    for name in FORMATS:
        for rounding, (how, method, after) in ROUNDINGS.items():
            for rank in RANKS:
                path = f"insert-lora{{rank={rank}, method={method}, most-macs=1e9}}, " if rank else ""
                codes = f"quantize-weights{{format={name}, {CODES}, {how}}}"
                passes = f"{FOLDS}, quantize-activations, {codes}, {path}{after}"
                made = lpcompile.compile(
                    bench.zoo.model(entry), calibration=samples, recipe="npp", passes=passes
                )
                found = figures.figures(made.model, 200 if bench.quick else None)
                paths = sum(layer["rank"] > 0 for layer in made.report["layers"])
                yield (entry, name, rounding, rank, paths, made.report["totals"]["bits_per_weight"],
                       bench.zoo.entries[entry]["metric"], found.score, found.sqnr_db)  # fmt: skip
