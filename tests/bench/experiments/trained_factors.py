"""Factors of side paths in closed form against trained ones, and samples chosen by sensitivity against random ones.

Two starts: `nearest + svd`, codes to nearest and the SVD of what they leave, as in the paper's own order of things; and
`npp`, as the recipe has it: large directions first, GPTQ beside the path. Main paths are the same before and after.
Figures are means over seeds (of the choice and the order of samples) with their standard errors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.prepared_entry import FOLDS, Made, PreparedEntry, passes_of
from tests.bench.experiments.results import Cell, Results

ENTRIES = ("tiny_resnet8_cifar10", "tiny_dscnn_kws", "char_gpt_shakespeare", "silero_vad_op18")
QUICK = ("tiny_resnet8_cifar10", "char_gpt_shakespeare")
SEEDS, LIMIT, QUICK_LIMIT = 5, None, 1000
HEAD = f"{FOLDS}, quantize-activations"
# name, passes up to the factors, rate of the training, what comes after the factors
STARTS = (
    (
        "nearest + svd",
        "quantize-weights{format=fixp4}, insert-lora{rank=8, method=svd, keep=always}, correct-bias",
        0.1,
    ),
    (
        "npp",
        "quantize-weights{format=fixp4, granularity=group, rule=output-mse, scale-format=ufloat8_e4m4,"
        " rounding=gptq, sweeps=0}, insert-lora{rank=8, keep=always}, correct-bias, requantize-weights",
        0.01,
    ),
)
SHARE = 0.25  # of the samples, where they are chosen
SELECTED = ("random", "kl", "margin", "gradient", "entropy")
HEADER = (
    "entry",
    "start",
    "factors",
    "samples",
    "score",
    "+-",
    "worst class",
    "+-",
    "SQNR dB",
    "+-",
    "KL nats",
    "+-",
    "kept",
    "of seeds",
)


@dataclass(frozen=True)
class Trial:
    """One network: score, top-1 of its worst class and KL where it has classes, SQNR; samples; whether it was kept."""

    figures: tuple[float, float, float, float]
    samples: int
    kept: bool


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry, start and choice of samples."""
    assert bench.zoo is not None
    count = seeds or (2 if bench.quick else SEEDS)
    made = Results(
        "trained_factors",
        "factors of rank 8: closed form and trained, samples by sensitivity and by chance",
        HEADER,
        seeds=tuple(range(count)),
    )
    limit = QUICK_LIMIT if bench.quick else LIMIT
    for entry in bench.names(ENTRIES, QUICK):
        samples = bench.zoo.samples(entry)
        for start, head, rate in STARTS:
            network = PreparedEntry(bench.zoo, entry, f"{HEAD}, {head}", "tune-factors", samples)
            paths = [p for p in network.graph.plan.layers.values() if p.tensor is not None and p.tensor.side]
            if not paths:
                made.notes.append(f"{entry}, {start}: none of its layers can take a side path")
                continue
            made.rows += rows(network, entry, start, rate, count, limit)
    made.notes.append("samples: of the calibration set, those that are trained on; no labels are used")
    draw(made)
    return made


def draw(made: Results) -> None:
    """Gains over the closed form by the choice of samples, with their standard errors."""
    at = {name: HEADER.index(name) for name in ("factors", "SQNR dB")}
    series = []
    for entry, start in dict.fromkeys((r[0], r[1]) for r in made.rows):
        closed, *trained = [r for r in made.rows if (r[0], r[1]) == (entry, start)]
        gains = [_number(r[at["SQNR dB"]]) - _number(closed[at["SQNR dB"]]) for r in trained]
        errors = [_number(r[at["SQNR dB"] + 1]) for r in trained]
        series.append(Series(f"{entry}, {start}", range(1, len(trained) + 1), gains, errors))
    made.chart(
        series, x=", ".join(f"{i} {name}" for i, name in enumerate(("all", *SELECTED), 1)), y="gain, dB"
    )


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, (int, float)) else 0.0


def rows(
    network: PreparedEntry, entry: str, start: str, rate: float, seeds: int, limit: int | None
) -> Iterator[tuple[Cell, ...]]:
    """One a choice of samples, the closed form first."""
    closed = _trial(network, network.made([]), limit)
    yield (entry, start, "closed form", 0, *_means([closed]), None, 1)
    common = f"learning-rate={rate}, batch={_batch(network)}"
    every = [_trained(network, common, seed, limit) for seed in range(seeds)]
    yield (entry, start, "trained, all", every[0].samples, *_means(every), _kept(every), seeds)
    count = max(2, round(SHARE * every[0].samples))
    for by in SELECTED:
        options = f"{common}, samples={count}, select={by}, epochs={round(10 / SHARE)}"  # as many steps
        found = [_trained(network, options, seed, limit) for seed in range(seeds)]
        yield (entry, start, f"trained, {by}", count, *_means(found), _kept(found), seeds)


def _batch(network: PreparedEntry) -> int:
    calls = network.context.calibration
    assert calls is not None
    count = sum(len(next(iter(c.values()))) for c in calls.deciding)
    return max(2, min(16, count // 8))


def _trained(network: PreparedEntry, options: str, seed: int, limit: int | None) -> Trial:
    held = network.context
    network.context = replace(held, seed=seed)
    try:
        return _trial(network, network.made(passes_of(f"tune-factors{{{options}}}")), limit)
    finally:
        network.context = held


def _trial(network: PreparedEntry, made: Made, limit: int | None) -> Trial:
    found = network.figures(made.proto, limit)
    worst = np.nan
    if found.right is not None:
        classes = np.asarray(network.zoo.data(network.entry, limit)["y"])
        worst = min(float(found.right[classes == c].mean()) for c in np.unique(classes))
    metrics = made.reports[-1].metrics if made.reports else {}
    kept = metrics.get("spared_gain_db", 0) > 0
    divergence = np.nan if found.divergence is None else found.divergence
    return Trial((found.score, worst, found.sqnr_db, divergence), int(metrics.get("samples", 0)), kept)


def _means(trials: Sequence[Trial]) -> Iterator[Cell]:
    """Means and their standard errors in turn; nothing where a figure does not exist or there is one seed."""
    for each in zip(*(t.figures for t in trials), strict=True):
        known = bool(np.isfinite(each).all())
        yield float(np.mean(each)) if known else None
        several = known and len(each) > 1
        yield float(np.std(each, ddof=1) / np.sqrt(len(each))) if several else None


def _kept(trials: Sequence[Trial]) -> int:
    return sum(t.kept for t in trials)
