"""What each step of rounding gives: in a chain, alone out of the whole, and alone on top of it.

All weights at 4 bits (fixp4, integer scales for groups of 32), activations at 8 and at 4 bits. What rounding happens to
do to some weights moves an output by up to a decibel, so that every figure is a mean over draws of calibration samples;
gains are paired, draw by draw.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.passes.quantize_weights import QuantizeWeights
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.prepared_entry import FOLDS, SHARE, PreparedEntry, draws, passes_of
from tests.bench.experiments.results import Cell, Results
from tests.bench.experiments.varied_metric import Variation, VariedRounding, varied
from tests.support import Array

ENTRIES = ("resnet20_cifar10", "tiny_dscnn_kws", "char_gpt_shakespeare", "tiny_resnet8_cifar10")
QUICK, QUICK_DRAWS, QUICK_SAMPLES = ("tiny_dscnn_kws",), 2, 64
DRAWS, SAMPLES = 4, 256  # draws of calibration samples; evaluation samples at most
ACTIVATIONS = {8: "format=uint8", 4: "format=uint4, ends=uint8"}
BIAS, AGAIN = "correct-bias", "correct-bias, requantize-weights"
HEADER = ("entry", "activation bits", "step", "how", "against", "draws", "SQNR dB", "SQNR deviation dB",
          "gain dB", "gain standard error dB", "logits SQNR dB", "logits SQNR deviation dB", "logits gain dB",
          "logits gain standard error dB", "bits a weight", "seconds")  # fmt: skip


USUAL = Variation()
T95 = {
    1: 12.7,
    2: 4.3,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    7: 2.36,
}  # of Student's t, two-sided, by draws less one


@dataclass(frozen=True)
class Step:
    """One way to round.

    Attributes:
        name: in the table.
        how: "chain" (one step more than the row it stands against), "left out" or "on top".
        against: the step that gains are measured from; none: itself.
        rounding: of quantize-weights.
        variation: of gptq.
        after: passes after rounding.
        equalized, searched: channels scaled, and ranges of activations searched, before it.
    """

    name: str
    how: str
    against: str
    rounding: str = "gptq"
    variation: Variation = USUAL
    after: str = BIAS
    equalized: bool = False
    searched: bool = False


_GPTQ = Variation(damped=False, conditional=False, sweeps=False)
ONCE, WHOLE = "+ sweeps and scales", "+ requantize-weights"  # what most steps stand against
STEPS = (
    Step("nearest", "chain", "nearest", "nearest", after=""),
    Step("+ correct-bias", "chain", "nearest", "nearest"),
    Step("+ kernel-sums", "chain", "+ correct-bias", "kernel-sums"),
    Step("gptq", "chain", "+ correct-bias", variation=_GPTQ),
    Step("+ damping by halves", "chain", "gptq", variation=Variation(conditional=False, sweeps=False)),
    Step("+ scales by conditional variances", "chain", "+ damping by halves", variation=Variation(sweeps=False)),
    Step(ONCE, "chain", "+ scales by conditional variances"),
    Step(WHOLE, "chain", ONCE, after=AGAIN),
    Step("damping 0.01", "left out", ONCE, variation=Variation(damped=False)),
    Step("scales by the diagonal", "left out", ONCE, variation=Variation(conditional=False)),
    Step("biases as they are", "left out", ONCE, variation=Variation(centred=False), after=""),
    Step("damping 0.01, again", "left out", WHOLE, variation=Variation(damped=False), after=AGAIN),
    Step("scales by the diagonal, again", "left out", WHOLE, variation=Variation(conditional=False), after=AGAIN),
    Step("sweeps before rounding again", "left out", WHOLE, variation=Variation(sweeps=False), after=AGAIN),
    Step("kernel-sums, biases again", "left out", WHOLE, "kernel-sums", after=AGAIN),
    Step("nearest, biases again", "left out", WHOLE, "nearest", after=AGAIN),
    Step("orders", "on top", ONCE, variation=Variation(orders=True)),
    Step("adaround", "on top", ONCE, variation=Variation(adaround=True)),
    Step("orders, adaround", "on top", ONCE, variation=Variation(orders=True, adaround=True)),
    Step("equalize", "on top", WHOLE, after=AGAIN, equalized=True),
    Step("search-ranges", "on top", WHOLE, after=AGAIN, searched=True),
    Step("equalize, search-ranges", "on top", WHOLE, after=AGAIN, equalized=True, searched=True),
    Step("equalize before nearest", "on top", "+ correct-bias", "nearest", equalized=True),
    Step("search-ranges before nearest", "on top", "+ correct-bias", "nearest", searched=True),
)  # fmt: skip
LEARNED = Step(
    "reconstruct-blocks", "on top", WHOLE, after=f"{AGAIN}, reconstruct-blocks"
)  # with --effort 2 or more
Figures = tuple[float, float, float, float]  # SQNR of outputs and of logits (nan: none), bits, seconds


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry at both widths of activations; seeds are draws."""
    count = seeds or (QUICK_DRAWS if bench.quick else DRAWS)
    made = Results(
        "rounding_ablation",
        "what each step of rounding gives, 4-bit weights",
        HEADER,
        seeds=tuple(range(count)),
    )
    for entry in bench.names(ENTRIES, QUICK):
        for bits in ACTIVATIONS:
            rows = list(entry_rows(bench, entry, bits, count))
            made.rows += rows
            print(*rows, sep="\n", flush=True)
    made.notes += [
        f"up to {SAMPLES} evaluation samples; logits: what the last softmax reads, where there is one",
        f"a draw: {100 * SHARE:g} % of the calibration samples, and a seed; of a single draw all samples",
        "gain: over the step under 'against' in the same draw, negative where leaving out loses; its standard error "
        "over draws, which share most samples",
        "clearly: the gain's 95 % interval by Student's t leaves out 0; logits count where there are some",
        "orders and adaround stand beside rounding once: rounding again chooses codes anew",
        *summary(made.rows),
    ]
    _charts(made)
    return made


def entry_rows(bench: Bench, entry: str, bits: int, count: int) -> Iterator[tuple[Cell, ...]]:
    """Every step of one entry at one width."""
    assert bench.zoo is not None
    wanted = (*STEPS, LEARNED) if max(bench.efforts, default=1) > 1 else STEPS
    samples = QUICK_SAMPLES if bench.quick else SAMPLES
    found: dict[str, list[Figures]] = {step.name: [] for step in wanted}
    for draw, feeds in enumerate(draws(bench.zoo.samples(entry), count)):
        for equalized, searched in itertools.product((False, True), repeat=2):
            steps = [s for s in wanted if (s.equalized, s.searched) == (equalized, searched)]
            head = _head(bits, equalized=equalized, searched=searched)
            network = PreparedEntry(bench.zoo, entry, head, _rounding("gptq"), feeds, seed=draw)
            for step in steps:
                found[step.name].append(_figures(network, step, samples))
    for step in wanted:
        own, other = (np.array(found[name]) for name in (step.name, step.against))
        columns: list[Cell] = []
        for k in (0, 1):
            gains = own[:, k] - other[:, k]
            columns += [_mean(own[:, k]), _deviation(own[:, k])]
            error = _deviation(gains)
            columns += [_mean(gains), None if error is None else error / count**0.5]
        yield (entry, bits, step.name, step.how, step.against, count, *columns, *own[:, 2:].mean(0).tolist())


def summary(rows: Sequence[tuple[Cell, ...]]) -> Iterator[str]:
    """Mean gain of each step over entries, and on how many it is clear."""
    at = {name: HEADER.index(name) for name in HEADER}
    for bits in ACTIVATIONS:
        for step in (*STEPS, LEARNED):
            own = [r for r in rows if r[at["step"]] == step.name and r[at["activation bits"]] == bits]
            if not own or step.name == step.against:
                continue
            pairs = [_of_logits(r) for r in own]
            gains = [g for g, _ in pairs]
            wide = T95.get(int(own[0][at["draws"]] or 1) - 1, 2.3)
            clear = [sum(s * g > wide * e > 0 for g, e in pairs) for s in (1, -1)]
            yield (
                f"W4A{bits}, {step.name} ({step.how}, against {step.against}): {np.mean(gains):+.2f} dB on the mean; "
                f"gains on {clear[0]} and loses on {clear[1]} of {len(own)} clearly"
            )


def _of_logits(row: tuple[Cell, ...]) -> tuple[float, float]:
    """Gain and its standard error, of logits where there are some."""
    of = "logits " if row[HEADER.index("logits gain dB")] is not None else ""
    gain, error = (row[HEADER.index(f"{of}{name} dB")] for name in ("gain", "gain standard error"))
    return float(gain or 0), float(error or 0)


def _figures(network: PreparedEntry, step: Step, samples: int) -> Figures:
    rounding, *after = passes_of(_rounding(step.rounding) + (f", {step.after}" if step.after else ""))
    if step.rounding != "gptq":
        made = network.made([rounding, *after])
    else:
        own = network.metrics()
        assert isinstance(rounding, QuantizeWeights)
        by_step = VariedRounding.of(rounding, varied(own, step.variation))
        known = varied(own, Variation(damped=step.variation.damped))  # rounding again takes its damping
        made = network.made([by_step, *after], known)
    logits = network.logits_db(made.proto, samples)
    return network.sqnr_db(made.proto, samples), np.nan if logits is None else logits, made.bits, made.seconds


def _head(bits: int, *, equalized: bool, searched: bool) -> str:
    activations = f"quantize-activations{{{ACTIVATIONS[bits]}}}"
    return ", ".join([FOLDS, *["equalize"] * equalized, activations, *["search-ranges"] * searched])


def _rounding(rounding: str) -> str:
    options = "format=fixp4, granularity=group, group-size=32, rule=output-mse, scale-format=ufloat8_e4m4"
    return f"quantize-weights{{{options}, rounding={rounding}}}"


def _mean(values: Array) -> float | None:
    return float(values.mean()) if np.isfinite(values).all() else None


def _deviation(values: Array) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None


def _charts(made: Results) -> None:
    chain = [s.name for s in STEPS if s.how == "chain"]
    at = {name: HEADER.index(name) for name in HEADER}
    for bits in ACTIVATIONS:
        series = []
        for entry in dict.fromkeys(str(r[0]) for r in made.rows):
            own = {r[at["step"]]: r for r in made.rows if r[0] == entry and r[1] == bits}
            of = "logits SQNR" if own["nearest"][at["logits SQNR dB"]] is not None else "SQNR"
            y, errors = (
                [float(own[s][at[f"{of}{what} dB"]] or 0) for s in chain] for what in ("", " deviation")
            )
            series.append(Series(entry, list(range(1, len(chain) + 1)), y, errors))
        suffix = "" if bits == 8 else f"w4a{bits}"
        title = f"steps of rounding, W4A{bits}: mean and standard deviation over draws"
        if series:
            made.chart(series, x=f"1 to {len(chain)}: steps of the chain", y="SQNR of logits or outputs, dB",
                       suffix=suffix, title=title)  # fmt: skip
