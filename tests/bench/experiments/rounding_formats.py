"""Each 4-bit format with each rounding, at equal bytes: output SQNR, and ranks of the formats.

The pipeline of `w4a8` with integer scales for groups of 32 inputs; every layer takes the format. Biases are corrected
under every rounding.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.prepared_entry import FOLDS, PreparedEntry, draws, passes_of
from tests.bench.experiments.results import Cell, Results

FORMATS = ("fixp4", "posit4", "nf4", "float4_e2m1fn", "lut4")
ROUNDINGS = {
    "nearest": ("nearest", "correct-bias"),
    "kernel-sums": ("kernel-sums", "correct-bias"),
    "gptq": ("gptq", "correct-bias"),
    "gptq, again": ("gptq, sweeps=0", "correct-bias, requantize-weights"),
}
QUICK, QUICK_SAMPLES = ("tiny_dscnn_kws",), 128
SAMPLES = 1000  # of the evaluation set, at most
HEADER = ("entry", "rounding", "format", "draws", "SQNR dB", "SQNR deviation dB", "logits SQNR dB",
          "logits SQNR deviation dB", "rank", "logits rank", "bits a weight", "bytes", "seconds")  # fmt: skip
HEAD = f"{FOLDS}, quantize-activations"


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry; with several seeds the means over selections of calibration samples."""
    count = seeds or 1
    title = "output SQNR of 4-bit formats by rounding, W4A8, groups of 32"
    made = Results("rounding_formats", title, HEADER, seeds=tuple(range(count)))
    for entry in bench.names(bench.all_names, QUICK):
        rows = list(entry_rows(bench, entry, count, QUICK_SAMPLES if bench.quick else SAMPLES))
        made.rows += rows
        print(*rows, sep="\n", flush=True)
    made.notes += [
        f"up to {SAMPLES} evaluation samples; logits: what the last softmax reads, where there is one",
        "gptq, again: and once more for the inputs of the rounded network; as w4a8 does; biases are always corrected",
        "deviation: standard deviation over draws of calibration samples; rank: 1 is the best of an entry and rounding",
        *summary(made.rows),
    ]
    _chart(made)
    return made


def entry_rows(bench: Bench, entry: str, count: int, samples: int) -> Iterator[tuple[Cell, ...]]:
    """All formats under all roundings."""
    assert bench.zoo is not None
    found: dict[tuple[str, str], list[tuple[float, float | None, float, int, float]]] = {}
    for draw, feeds in enumerate(draws(bench.zoo.samples(entry), count)):
        for fmt in FORMATS:
            network = PreparedEntry(bench.zoo, entry, HEAD, _rounding(fmt, "gptq"), feeds, seed=draw)
            for name, (rounding, after) in ROUNDINGS.items():
                start = time.perf_counter()
                one = network.made(passes_of(f"{_rounding(fmt, rounding)}, {after}"))
                seconds = time.perf_counter() - start
                decibels = network.sqnr_db(one.proto, samples), network.logits_db(one.proto, samples)
                size = one.proto.ByteSize()
                found.setdefault((name, fmt), []).append((*decibels, one.bits, size, seconds))
    for name in ROUNDINGS:
        outputs, logits = ({f: [r[k] for r in found[name, f]] for f in FORMATS} for k in (0, 1))
        ranks = [_ranks([_mean(of[f]) for f in FORMATS]) for of in (outputs, logits)]
        for i, fmt in enumerate(FORMATS):
            bits, size, seconds = (float(np.mean([r[k] for r in found[name, fmt]])) for k in (2, 3, 4))
            yield (entry, name, fmt, count, _mean(outputs[fmt]), _deviation(outputs[fmt]), _mean(logits[fmt]),
                   _deviation(logits[fmt]), ranks[0][i], ranks[1][i], bits, round(size), seconds)  # fmt: skip


def average_ranks(rows: Sequence[tuple[Cell, ...]], rounding: str) -> dict[str, float]:
    """Of each format over entries under a rounding; of logits where there are some."""
    at = {name: HEADER.index(name) for name in HEADER}
    ranks: dict[str, list[float]] = {}
    for row in rows:
        if row[at["rounding"]] == rounding:
            rank = row[at["logits rank"]] or row[at["rank"]]
            if rank is not None:
                ranks.setdefault(str(row[at["format"]]), []).append(float(rank))
    return {fmt: float(np.mean(r)) for fmt, r in ranks.items()}


def summary(rows: Sequence[tuple[Cell, ...]]) -> Iterator[str]:
    """Average rank of each format, by rounding, and what each rounding gains over the nearest codes."""
    at = HEADER.index("SQNR dB")
    nearest = {(r[0], r[2]): r[at] for r in rows if r[1] == "nearest"}
    for rounding in ROUNDINGS:
        ranks = sorted(average_ranks(rows, rounding).items(), key=lambda item: item[1])
        gains = [
            float(r[at] or 0) - float(nearest[r[0], r[2]] or 0)
            for r in rows
            if r[1] == rounding and r[at] is not None
        ]
        shown = ", ".join(f"{fmt} {rank:.2f}" for fmt, rank in ranks)
        gain = f"; {np.mean(gains):+.2f} dB over nearest codes on the mean" if gains else ""
        yield f"{rounding}: average rank {shown}{gain}"


def _rounding(fmt: str, rounding: str) -> str:
    options = "granularity=group, group-size=32, rule=output-mse, scale-format=ufloat8_e4m4"
    return f"quantize-weights{{format={fmt}, {options}, rounding={rounding}}}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _ranks(values: Sequence[float | None]) -> list[float | None]:
    """1 for the largest; those alike share the mean of their ranks; None where there are none."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return [None] * len(values)
    return [sum(x > v for x in known) + (1 + sum(x == v for x in known)) / 2 for v in known]


def _chart(made: Results) -> None:
    steps = list(range(1, len(ROUNDINGS) + 1))
    ranks = [average_ranks(made.rows, rounding) for rounding in ROUNDINGS]
    series = [Series(f, steps, [r[f] for r in ranks]) for f in FORMATS if all(f in r for r in ranks)]
    if series:
        made.chart(series, x=f"rounding: {', '.join(ROUNDINGS)}", y="average rank, 1 is best")
