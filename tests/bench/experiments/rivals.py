"""4-bit weights beside what other tools reach on the same networks: SQNR, score, bytes and seconds.

Other tools' figures are those of the zoo's BASELINES.md, read at run time; ours are taken in the same way: SQNR of the
first output on 64 evaluation samples, the score on all, calibration samples only, no labels. A row of other tools
competes where its weights and activations have the same widths, whatever it does to ends and depthwise layers.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import lpcompile
from lpcompile.errors import LpcompileError
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Cell, Results
from tests.zoo.baselines import Baseline, EntryBaselines, read_baselines
from tests.zoo.entries import Zoo

QUICK = ("tiny_dscnn_kws",)
QUICK_SAMPLES = 100
EFFORTS = (1,)
SQNR_SAMPLES = 64
HEADER = ("entry", "config", "effort", "widths", "metric", "float score", "score", "drop", "b", "c",
          "drop standard error", "SQNR dB", "bytes", "constants bytes", "bits a weight", "seconds", "best other",
          "its SQNR dB", "SQNR gain dB", "its bytes", "bytes / its bytes", "its drop", "drop gain", "its seconds",
          "slower others", "slower and beaten", "slower and not beaten")  # fmt: skip


@dataclass(frozen=True)
class Config:
    """How we compile, and which rows of other tools that stands beside."""

    widths: str
    options: Mapping[str, Any]


_AUTO = {"recipe": "auto", "budget": {"avg-bits": 4.5}}
CONFIGS = {
    "auto": Config("W4A8", _AUTO),
    "w4a8": Config("W4A8", {"recipe": "w4a8"}),
    "auto, 4-bit activations": Config("W4A4", {**_AUTO, "activation_format": "uint4"}),
    "w4a4": Config("W4A4", {"recipe": "w4a4"}),
}


@dataclass(frozen=True)
class Ours:
    """What one of our models does.

    Attributes:
        float_score, score: the entry's metric.
        drop: positive where the model is worse; of perplexity relative to the float model's.
        lost, won, error: of paired samples and the standard error of the drop, where the metric is top-1.
        sqnr_db, size, constants, bits, seconds: as the columns say; constants are those of the graph, not of functions.
    """

    float_score: float
    score: float
    drop: float
    lost: int | None
    won: int | None
    error: float | None
    sqnr_db: float
    size: int
    constants: int
    bits: float
    seconds: float


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry that other tools were measured on, at every effort."""
    del seeds
    assert bench.zoo is not None
    others = read_baselines(bench.zoo.root)
    made = Results("rivals", "4-bit weights beside other tools", HEADER)
    for entry in bench.names(tuple(others), QUICK):
        limit = QUICK_SAMPLES if bench.quick else None
        was = bench.zoo.score(entry, bench.zoo.model(entry), limit)
        for effort in bench.efforts or EFFORTS:
            for name, config in CONFIGS.items():
                try:
                    ours = measured(bench.zoo, entry, {**config.options, "effort": effort}, was, limit)
                except LpcompileError as error:  # its failure is a result
                    made.notes.append(f"{entry}, {name}, -O{effort}: {type(error).__name__}: {error.message}")
                    continue
                made.rows.append(
                    (
                        entry,
                        name,
                        effort,
                        *compared(ours, config.widths, others.get(entry), bench.zoo.entries[entry]["metric"]),
                    )
                )
                print(*(c for c in made.rows[-1][:19]), sep=" | ", flush=True)
    made.notes += [
        f"SQNR: of the first output on {SQNR_SAMPLES} evaluation samples",
        "seconds: of machines that others use as well, and not of the same one",
        "drop: paired, b lost and c won, where the metric is top-1; of perplexity relative to the float model's",
        "best other: the row of most SQNR with the same widths; drop gain: its drop less ours",
        "slower others: rows of the same widths that took longer than we did; beaten: of less SQNR",
        *summary(made),
    ]
    if not others:
        made.notes.append("the zoo has no figures of other tools")
    _chart(made)
    return made


def measured(zoo: Zoo, entry: str, options: Mapping[str, Any], was: float, limit: int | None) -> Ours:
    """Compile an entry with all its calibration samples, and measure it.

    Raises:
        LpcompileError: it does not compile.
    """
    samples = zoo.samples(entry)
    start = time.perf_counter()
    made = lpcompile.compile(zoo.model(entry), calibration=samples, **options)
    seconds = time.perf_counter() - start
    model = bytes(made.model.SerializeToString(deterministic=True))
    bits = float(made.report["totals"]["bits_per_weight"])
    constants = sum(t.ByteSize() for t in made.model.graph.initializer)
    rest = (zoo.sqnr_db(entry, model, SQNR_SAMPLES), len(model), constants, bits, seconds)
    if zoo.entries[entry]["metric"] == "top1":
        pair = zoo.paired(entry, model, limit)
        return Ours(was, was - pair.drop, pair.drop, pair.lost, pair.won, pair.standard_error, *rest)
    score = zoo.score(entry, model, limit)
    sign = 1 if zoo.entries[entry].get("higher_is_better", True) else -1
    drop = _relative(sign * (was - score), was, zoo.entries[entry]["metric"])
    return Ours(was, score, drop, None, None, None, *rest)


def compared(ours: Ours, widths: str, others: EntryBaselines | None, metric: str) -> tuple[Cell, ...]:
    """The cells of a row after the effort."""
    own: tuple[Cell, ...] = (widths, metric, ours.float_score, ours.score, ours.drop, ours.lost, ours.won, ours.error,
                             ours.sqnr_db, ours.size, ours.constants, ours.bits, ours.seconds)  # fmt: skip
    rows = [] if others is None else others.of(widths)
    if others is None or not rows:
        return (*own, *[None] * (len(HEADER) - 3 - len(own)))
    best = max(rows, key=_sqnr_db)
    slower = [r for r in rows if r.seconds is not None and r.seconds > ours.seconds]
    ahead = [r for r in slower if _sqnr_db(r) >= ours.sqnr_db]
    drop = None if best.drop is None else _relative(best.drop, others.float_score, metric)
    return (
        *own,
        named(best),
        best.sqnr_db,
        ours.sqnr_db - _sqnr_db(best),
        best.size,
        None if best.size is None else ours.size / best.size,
        drop,
        None if drop is None else drop - ours.drop,
        best.seconds,
        len(slower),
        len(slower) - len(ahead),
        "; ".join(f"{named(r)} ({r.sqnr_db:g} dB in {r.seconds:g} s)" for r in ahead),
    )


def named(row: Baseline) -> str:
    """A row of other tools in words."""
    return f"{row.tool} {row.config}" + (f" [{row.setting}]" if " " in row.setting else "")


def summary(made: Results) -> Iterator[str]:
    """How often and how much, by configuration and effort."""
    at = {name: HEADER.index(name) for name in HEADER}
    for config, effort in dict.fromkeys((r[at["config"]], r[at["effort"]]) for r in made.rows):
        rows = [r for r in made.rows if r[1:3] == (config, effort) and r[at["SQNR gain dB"]] is not None]
        if not rows:
            continue
        gains, ratios, drops = (
            [float(v) for r in rows if (v := r[at[name]]) is not None]
            for name in ("SQNR gain dB", "bytes / its bytes", "drop gain")
        )
        behind = [str(r[0]) for r in rows if float(r[at["SQNR gain dB"]] or 0) <= 0]
        larger = [str(r[0]) for r in rows if float(r[at["bytes / its bytes"]] or 0) > 1]
        slower, beaten = (
            sum(int(r[at[k]] or 0) for r in rows) for k in ("slower others", "slower and beaten")
        )
        yield (
            f"{config}, -O{effort}: {np.mean(gains):+.2f} dB on the mean of {len(rows)} entries, above the best row "
            f"on {len(rows) - len(behind)}{_listed(', not on', behind)}; {np.mean(ratios):.2f} times its bytes "
            f"on the mean{_listed(', more on', larger)}; drop less by {np.mean(drops):+.4f} on the mean; "
            f"{beaten} of {slower} rows that took longer are beaten"
        )


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(names)}" if names else ""


def _sqnr_db(row: Baseline) -> float:
    return -np.inf if row.sqnr_db is None else row.sqnr_db


def _relative(drop: float, was: float, metric: str) -> float:
    return drop / was if metric == "perplexity" else drop


def _chart(made: Results) -> None:
    at = HEADER.index("SQNR gain dB")
    series = []
    for config, effort in dict.fromkeys((r[1], r[2]) for r in made.rows):
        gains = sorted(float(v) for r in made.rows if r[1:3] == (config, effort) and (v := r[at]) is not None)
        if gains:
            series.append(Series(f"{config}, -O{effort}", list(range(1, len(gains) + 1)), gains))
    if series:
        made.chart(
            series, x="zoo entries, sorted by gain", y="output SQNR less that of the best other row, dB"
        )
