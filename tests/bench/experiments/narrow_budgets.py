"""`auto` below and above four bits a weight: what each bit is worth, and what the file holds beside it."""

from collections.abc import Iterator

import lpcompile
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.entry_figures import EntryFigures
from tests.bench.experiments.results import Cell, Results

ENTRIES = (
    "tiny_resnet8_cifar10",
    "resnet20_cifar10",
    "squeezenet_imagenet",
    "char_gpt_shakespeare",
    "minilm_stsb",
)
QUICK = ("tiny_resnet8_cifar10",)
BUDGETS = (3.25, 3.5, 3.75, 4.0, 4.25, 4.5)
SAMPLES = {"char_gpt_shakespeare": 64, "minilm_stsb": 64}  # for SQNR; of the others all, MOST at the most
MOST = 1000
HEADER = ("entry", "budget, bits", "bits", "seed", "score", "float score", "SQNR dB", "logits dB", "file kB")
Row = tuple[Cell, ...]


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry at every budget."""
    count = seeds or 1
    made = Results("narrow_budgets", "auto at few bits a weight", HEADER, seeds=tuple(range(count)))
    lines = []
    for entry in bench.names(ENTRIES, QUICK):
        rows = list(_rows(bench, entry, count))
        made.rows += rows
        points = {float(r[1] or 0): float(r[7] or r[6] or 0) for r in rows if r[3] == 0}
        lines.append(Series(entry, list(points), list(points.values())))
    made.chart(lines, x="bits a weight", y="SQNR dB, of logits where there is a softmax")
    made.notes += [
        "score: the entry's own metric on its whole evaluation set (char_gpt_shakespeare: perplexity, lower is better)",
        f"SQNR on the first {MOST} evaluation samples at the most; 64 of char_gpt_shakespeare and minilm_stsb",
    ]
    return made


def _rows(bench: Bench, entry: str, seeds: int) -> Iterator[Row]:
    assert bench.zoo is not None
    figures = EntryFigures(bench.zoo, entry)
    limit = SAMPLES.get(entry, MOST)
    reference = figures.float_figures().score
    for budget in BUDGETS[-2:] if bench.quick else BUDGETS:
        for seed in range(seeds):
            made = lpcompile.compile(
                bench.zoo.model(entry),
                calibration=bench.zoo.samples(entry),
                recipe="auto",
                budget={"avg-bits": budget},
                seed=seed,
            )
            totals, model = made.report["totals"], made.model
            row: Row = (entry, budget, totals["bits_per_weight"], seed, figures.score(model), reference,
                        figures.sqnr_db(model, limit), figures.logits_db(model, limit),
                        totals["file_bytes"] / 1e3)  # fmt: skip
            print(*row, sep=" | ", flush=True)
            yield row
