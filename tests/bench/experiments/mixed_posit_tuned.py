"""Mixed posit4/fixp4 against all-fixp4 before and after retraining: channel scales, 8- and 4-bit activations.

At most a tenth of the weights are posits, in the layers that `assign-formats` takes for the network before retraining.
Both networks are retrained with the same options and, seed by seed, in the same order of samples, on the calibration
samples against the float model's outputs. [azizi2023]
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lpcompile.assignment.mac_energy import PAPER_OVERHEAD
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Assigned, Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.entry_figures import Figures
from tests.bench.experiments.mixed_posit import ACTIVATIONS, NONE, posit_layers, same_formats, standard_error
from tests.bench.experiments.results import Cell, Results
from tests.bench.experiments.retrained import formats_of, retrained

ENTRIES = ("tiny_dscnn_kws", "mnist_cnn", "tiny_resnet8_cifar10", "resnet20_cifar10")
SEEDS = 5
PAPER_GAIN = 1.5  # points of accuracy
EPOCHS = 10
OPTIONS = {"estimator": "lsq", "table-estimator": "tanh", "epochs": str(EPOCHS)}
HEADER = (
    "entry",
    "activation bits",
    "stage",
    "seed",
    "metric",
    "samples",
    "float score",
    "fixp4 score",
    "mixed score",
    "gain",
    "standard error over seeds",
    "standard error over samples",
    "fixp4 SQNR dB",
    "mixed SQNR dB",
    "SQNR gain dB",
    "SQNR gain standard error over seeds",
    "fixp4 KL nats",
    "mixed KL nats",
    "KL gain nats",
    "posit layers",
    "posit share of weights %",
    "MAC energy overhead %",
    "paper's gain points",
    "paper's overhead %",
)
AT = {name: i for i, name in enumerate(HEADER)}
MEAN = "mean"
Row = tuple[Cell, ...]
Pair = tuple[Figures, Figures]  # all-fixp4 and mixed


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry at both widths."""
    count = seeds or (2 if bench.quick else SEEDS)
    entries = bench.names(ENTRIES, ENTRIES[:1])
    found = (row for entry in entries for row in rows(bench, entry, count, limit=64 if bench.quick else None))
    return results(found, count)


def rows(bench: Bench, entry: str, seeds: int, *, limit: int | None = None) -> Iterator[Row]:
    """Of one entry: before retraining, of each seed after it, and their mean.

    Args:
        bench: with a zoo.
        entry: of the zoo.
        seeds: how many.
        limit: evaluation samples; None: all.
    """
    for activation, bits in ACTIVATIONS.items():
        network = Network(bench, entry, activation)
        fixed, mixed = network.assigned({"posit-fraction": NONE}), network.assigned()
        reference = network.float_figures(limit)
        was = network.figures(fixed.proto, limit)
        before = was, was if same_formats(fixed, mixed) else network.figures(mixed.proto, limit)
        yield _row(network, bits, "ptq", None, reference, [before], mixed, limit)
        pairs = []
        for seed in range(seeds):
            pairs.append(_trained(network, fixed, mixed, seed, limit))
            yield _row(network, bits, "retrained", seed, reference, pairs[-1:], mixed, limit)
        yield _row(network, bits, "retrained", MEAN, reference, pairs, mixed, limit)


def results(found: Iterable[Row], seeds: int) -> Results:
    """Table, notes and chart of rows."""
    made = Results(
        "mixed_posit_tuned",
        "Mixed posit4/fixp4 (at most 10 % of the weights posit) against all-fixp4, before and after retraining",
        HEADER,
        list(found),
        tuple(range(seeds)),
    )
    options = ",".join(f"{k}={v}" for k, v in OPTIONS.items())
    made.notes += [
        f"tune-weights{{{options}}} on the calibration samples against the float model; the seed orders them",
        "activation bits: inputs of the first and the last layer have 8; weights have 4 and channel scales",
        "gain: mixed less all-fixp4, positive where mixed is better; over samples: of paired samples (top-1)",
        *_summary(made.rows),
    ]
    _chart(made)
    return made


def _trained(network: Network, fixed: Assigned, mixed: Assigned, seed: int, limit: int | None) -> Pair:
    was = network.figures(retrained(network, formats_of(fixed), OPTIONS, seed).made.proto, limit)
    if same_formats(fixed, mixed):
        return was, was
    return was, network.figures(retrained(network, formats_of(mixed), OPTIONS, seed).made.proto, limit)


def _row(
    network: Network,
    bits: int,
    stage: str,
    seed: int | str | None,
    reference: Figures,
    pairs: Sequence[Pair],
    mixed: Assigned,
    limit: int | None,
) -> Row:
    entry = network.zoo.entries[network.entry]
    sign = 1.0 if entry.get("higher_is_better", True) else -1.0
    score, db, kl = (np.array([[_figure(f, k) for f in pair] for pair in pairs]) for k in range(3))
    gains = sign * (score[:, 1] - score[:, 0])
    sqnr = db[:, 1] - db[:, 0]
    was, now = score.mean(0).tolist()
    was_db, now_db = db.mean(0).tolist()
    was_kl, now_kl = kl.mean(0).tolist()
    right = [(a.right, b.right) for a, b in pairs if a.right is not None and b.right is not None]
    over_samples = None
    if len(right) == 1:
        over_samples = standard_error(*right[0])
    elif right:
        each = np.mean([b.astype(float) - a.astype(float) for a, b in right], axis=0)
        over_samples = float(each.std(ddof=1) / math.sqrt(len(each)))
    return (
        network.entry,
        bits,
        stage,
        seed,
        entry["metric"],
        len(right[0][0]) if right else entry["fp32"]["n"] if limit is None else limit,
        reference.score,
        was,
        now,
        float(gains.mean()),
        _error(gains),
        over_samples,
        was_db,
        now_db,
        float(sqnr.mean()),
        _error(sqnr),
        *((was_kl, now_kl, now_kl - was_kl) if right else (None, None, None)),
        posit_layers(mixed),
        100 * mixed.share.of_parameters,
        100 * (mixed.share.energy_overhead or 0.0),
        PAPER_GAIN,
        100 * PAPER_OVERHEAD,
    )


def _figure(figures: Figures, k: int) -> float:
    found = (figures.score, figures.sqnr_db, figures.divergence)[k]
    return math.nan if found is None else found


def _error(values: np.ndarray) -> float | None:
    """Standard error of the mean over seeds."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _number(row: Row, name: str) -> float:
    return float(row[AT[name]] or 0.0)


def _whole(found: Sequence[Row]) -> Iterator[Row]:
    return (r for r in found if r[AT["seed"]] in (None, MEAN))


def _summary(found: Sequence[Row]) -> Iterator[str]:
    """What there is of the paper's gain."""
    for stage in ("ptq", "retrained"):
        for bits in ACTIVATIONS.values():
            own = [r for r in _whole(found) if (r[AT["stage"]], r[AT["activation bits"]]) == (stage, bits)]
            if not any(r[AT["metric"]] == "top1" for r in own):
                continue
            top1 = [r for r in own if r[AT["metric"]] == "top1"]
            points = [100 * _number(r, "gain") for r in top1]
            clear = [
                r
                for r in top1
                if abs(_number(r, "gain"))
                > 2
                * math.hypot(
                    _number(r, "standard error over seeds"), _number(r, "standard error over samples")
                )
            ]
            db = [_number(r, "SQNR gain dB") for r in own]
            overhead = [_number(r, "MAC energy overhead %") for r in own]
            yield (
                f"{stage}, W4A{bits}: gain {np.mean(points):+.2f} points on average over {len(top1)} top-1 entries "
                f"({min(points):+.2f} to {max(points):+.2f}), beyond two standard errors on {len(clear)}; SQNR "
                f"{np.mean(db):+.2f} dB; MAC energy {np.mean(overhead):+.3f} % (paper: {PAPER_GAIN:+.1f} points, "
                f"{100 * PAPER_OVERHEAD:+.2f} %)"
            )


def _chart(made: Results) -> None:
    series = []
    for stage in ("ptq", "retrained"):
        for bits in ACTIVATIONS.values():
            own = [
                r for r in _whole(made.rows) if (r[AT["stage"]], r[AT["activation bits"]]) == (stage, bits)
            ]
            error = [
                100
                * math.hypot(
                    _number(r, "standard error over seeds"), _number(r, "standard error over samples")
                )
                for r in own
            ]
            y = [100 * _number(r, "gain") for r in own]
            series.append(Series(f"{stage}, W4A{bits}", list(range(1, len(own) + 1)), y, error))
    made.chart(
        series,
        x="networks: "
        + ", ".join(str(r) for r in dict.fromkeys(r[0] for r in made.rows if r[AT["metric"]] == "top1")),
        y="top-1, mixed less all-fixp4, points; bars: standard error",
    )
