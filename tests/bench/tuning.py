"""Retraining of 4-bit weights on the zoo's calibration samples: before and after, and the time of a step."""

from typing import Any

import numpy as np

import lpcompile
from tests.bench.bench_table import Bench, Table
from tests.zoo.entries import Zoo, session

ENTRIES = ("tiny_resnet8_cifar10", "tiny_dscnn_kws", "resnet20_cifar10")
# (weights, group size, estimators)
CASES = (
    ("fixp4", 0, ("ste", "lsq")),
    ("posit4", 0, ("ste", "tanh", "linear", "lsq")),
    ("fixp4", 32, ("auto",)),
    ("posit4", 32, ("auto",)),
)
EPOCHS = 10
JUDGED = 400


def measure(bench: Bench) -> Table:
    """One row a format and estimator; "none" is before retraining."""
    zoo = bench.zoo
    assert zoo is not None
    header = (
        "entry",
        "weights",
        "group",
        "estimator",
        "score",
        "float",
        "agree",
        "kl",
        "sqnr_db",
        "held before",
        "held after",
        "codes changed",
        "best epoch",
        "ms a step",
    )
    made = Table(f"W4A8 before and after {EPOCHS} epochs on the calibration samples", header)
    for name in bench.names(ENTRIES, ENTRIES[1:2]):
        was = zoo.score(name, zoo.model(name), None)
        for fmt, group, estimators in CASES[:1] if bench.quick else CASES:
            for estimator in ("none", *(estimators[:1] if bench.quick else estimators)):
                result = compiled(zoo, name, fmt, group, estimator)
                model = result.model.SerializeToString()
                metrics: dict[str, Any] = next(
                    (p["metrics"] for p in result.report["passes"] if p["name"] == "tune-weights"), {}
                )
                row = (name, fmt, group, estimator, round(zoo.score(name, model, None), 4), round(was, 4))
                made.rows.append((*row, *distance(zoo, name, model), *training(metrics)))
    made.notes.append(
        f"agree, kl, sqnr_db: against the float model on {JUDGED} evaluation samples; default options"
    )
    return made


def compiled(zoo: Zoo, name: str, fmt: str, group: int, estimator: str) -> lpcompile.Artefacts:
    """An entry with all weights in one format, by the recipe w4a8."""
    tuning = None if estimator == "none" else {"epochs": str(EPOCHS), "estimator": estimator}
    return lpcompile.compile(
        zoo.model(name),
        calibration=zoo.samples(name),
        recipe="w4a8",
        weight_format=fmt,
        group_size=group,
        tuning=tuning,
    )


def distance(zoo: Zoo, name: str, model: bytes) -> tuple[float, float, float]:
    """Agreement, KL divergence in nats and SQNR in dB of the first output."""
    from lpcompile.runtime.compare import Comparison

    arrays, comparison = zoo.samples(name, "eval", JUDGED), Comparison()
    sessions = [session(zoo.model(name)), session(model)]
    output = sessions[0].get_outputs()[0].name
    count = len(next(iter(arrays.values())))
    for first in range(0, count, 16):
        feeds = {k: a[first : first + 16] for k, a in arrays.items()}
        reference, other = (np.asarray(s.run([output], feeds)[0]) for s in sessions)
        comparison.update({output: reference}, {output: other})
    assert comparison.agreement is not None
    assert comparison.kl is not None
    assert comparison.sqnr_db is not None
    return round(comparison.agreement, 4), round(comparison.kl, 5), round(comparison.sqnr_db, 2)


def training(metrics: dict[str, Any]) -> tuple[Any, ...]:
    """What the pass reports; None before retraining."""
    if not metrics:
        return (None,) * 5
    return (
        round(metrics["loss_held_before"], 4),
        round(metrics["loss_held_after"], 4),
        round(metrics.get("changed_codes_share", 0.0), 4),
        metrics["best_epoch"],
        round(1000 * metrics["step_seconds"]),
    )
