"""Slopes that stand for the gradient of a rounding: tanh, straight-through and linear.

All weights are posit4, or mixed with fixp4 (at most 10 % posits), with channel scales; 8-bit activations. Held-out
samples are those of the calibration samples that `tune-weights` does not train on, the score is of the evaluation set.
[azizi2023; notes 2.9]
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.plan import WeightPlan
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Cell, Results
from tests.bench.experiments.retrained import formats_of, retrained

ENTRIES = ("tiny_dscnn_kws", "tiny_resnet8_cifar10")
MIXED = "mixed"  # as assign-formats chooses; the estimator is that of its posit layers, the others have lsq
ESTIMATORS = {"posit4": ("tanh", "ste", "linear"), MIXED: ("tanh", "ste")}
SEEDS = 5
EPOCHS = 15
BEFORE = "none"  # not retrained
HEADER = (
    "entry",
    "format",
    "estimator",
    "seed",
    "samples",
    "float score",
    "score",
    "SQNR dB",
    "KL nats",
    "best epoch",
    *(f"held loss {i}" for i in range(EPOCHS + 1)),
)
AT = {name: i for i, name in enumerate(HEADER)}
LOSSES = AT["held loss 0"]
Row = tuple[Cell, ...]


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry, format and estimator."""
    count = seeds or (2 if bench.quick else SEEDS)
    entries = bench.names(ENTRIES, ENTRIES[:1])
    limit = 64 if bench.quick else None
    return results(
        (r for e in entries for f in ESTIMATORS for r in rows(bench, e, f, count, limit=limit)), count
    )


def rows(bench: Bench, entry: str, fmt: str, seeds: int, *, limit: int | None = None) -> Iterator[Row]:
    """Of one entry and format: without retraining, then of each estimator and seed.

    Args:
        bench: with a zoo.
        entry: of the zoo.
        fmt: of all weights.
        seeds: how many.
        limit: evaluation samples; None: all.
    """
    network = Network(bench, entry, "uint8")
    weights = _weights(network, fmt)
    whole = network.zoo.entries[entry]["fp32"]

    def row(estimator: str, seed: int | None, proto: object, best: int | None, held: Sequence[float]) -> Row:
        found = network.figures(proto, limit)  # type: ignore[arg-type]
        padded = [*held, *[None] * (EPOCHS + 1 - len(held))]
        count = len(found.right) if found.right is not None else whole["n"]
        return (
            entry,
            fmt,
            estimator,
            seed,
            count,
            whole["score"],
            found.score,
            found.sqnr_db,
            found.divergence,
            best,
            *padded,
        )

    yield row(BEFORE, None, network.given(weights).proto, None, ())
    for seed in range(seeds):
        for estimator in ESTIMATORS[fmt]:
            chosen = {"estimator": "lsq", "table-estimator": estimator}
            options = {
                **(chosen if fmt == MIXED else {"estimator": estimator}),
                "epochs": str(EPOCHS),
            }
            got = retrained(network, weights, options, seed)
            yield row(estimator, seed, got.made.proto, int(got.metrics["best_epoch"]), got.held)


def _weights(network: Network, fmt: str) -> dict[str, WeightPlan]:
    if fmt == MIXED:
        return formats_of(network.assigned())
    planned = formats_of(network.given({}))
    return {name: replace(w, format=fmt) for name, w in planned.items() if w.format != "float32"}


def results(found: Iterable[Row], seeds: int) -> Results:
    """Table, notes and charts of rows."""
    made = Results(
        "estimators",
        "Retraining of 4-bit networks (W4A8, channel scales) by the gradient's estimator",
        HEADER,
        list(found),
        tuple(range(seeds)),
    )
    made.notes += [
        f"tune-weights{{epochs={EPOCHS}}} on the calibration samples; the seed orders them; fixp4 layers have lsq",
        "held loss i: noise over signal of the logits on held-out calibration samples after epoch i, 0: before",
        *_summary(made.rows),
    ]
    _charts(made)
    return made


def _of(found: Sequence[Row], entry: Cell, fmt: str, estimator: str) -> list[Row]:
    return [r for r in found if r[:3] == (entry, fmt, estimator)]


def _values(found: Sequence[Row], name: str) -> np.ndarray:
    return np.array([float(r[AT[name]] or 0.0) for r in found])


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _summary(found: Sequence[Row]) -> Iterator[str]:
    """Scores with standard errors, and pairs by seed against the first estimator of a format."""
    for entry in dict.fromkeys(r[0] for r in found):
        for fmt, names in ESTIMATORS.items():
            before = _of(found, entry, fmt, BEFORE)
            if not before:
                continue
            yield (
                f"{entry}, {fmt}, not retrained: top-1 {100 * _values(before, 'score')[0]:.2f} %, "
                f"SQNR {_values(before, 'SQNR dB')[0]:.2f} dB"
            )
            first = _of(found, entry, fmt, names[0])
            for name in names:
                own = _of(found, entry, fmt, name)
                score, db = 100 * _values(own, "score"), _values(own, "SQNR dB")
                text = (
                    f"{entry}, {fmt}, {name}: top-1 {score.mean():.2f} +- {_error(score):.2f} %, SQNR "
                    f"{db.mean():.2f} +- {_error(db):.2f} dB, best epoch {_values(own, 'best epoch').mean():.1f}"
                )
                if name != names[0] and len(own) == len(first):
                    points = score - 100 * _values(first, "score")
                    more = db - _values(first, "SQNR dB")
                    text += (
                        f"; less {names[0]}: {points.mean():+.2f} +- {_error(points):.2f} points, "
                        f"{more.mean():+.2f} +- {_error(more):.2f} dB"
                    )
                yield text


def _charts(made: Results) -> None:
    for fmt, names in ESTIMATORS.items():
        series = []
        for entry in dict.fromkeys(r[0] for r in made.rows):
            for name in names:
                own = _of(made.rows, entry, fmt, name)
                if not own:
                    continue
                held = np.array([[float(x or 0.0) for x in r[LOSSES:]] for r in own])
                held = held / held[:, :1]
                error = [_error(column) for column in held.T]
                label = f"{str(entry).removeprefix('tiny_').split('_')[0]}, {name}"
                series.append(Series(label, list(range(EPOCHS + 1)), held.mean(0).tolist(), error))
        if series:
            made.chart(
                series,
                x="epoch",
                y="held-out loss, of that before; bars: standard error over seeds",
                suffix="" if fmt == "posit4" else fmt,
                title=f"Held-out loss while retraining, W4A8, weights {fmt}",
            )
