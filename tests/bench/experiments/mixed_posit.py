"""Mixed posit4/fixp4 against all-fixp4 on the zoo: 4-bit weights with 8- and 4-bit activations.

At most a tenth of the weights are posits; both formats have channel scales in 8 bits. Rows of the stage `ptq` are
without retraining. Gains are paired: the same evaluation samples through both models. [azizi2023]
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lpcompile.assignment.mac_energy import PAPER_OVERHEAD
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Assigned, Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.entry_figures import Figures
from tests.bench.experiments.results import Cell, Results
from tests.support import Array

ENTRIES = (
    "tiny_resnet8_ic01",
    "tiny_resnet8_cifar10",
    "tiny_dscnn_kws",
    "tiny_autoencoder_toycar",
    "squeezenet_imagenet",
    "mobilenetv2_imagenet",
    "resnet20_ic01",
    "resnet20_cifar10",
    "mnist_cnn",
    "minilm_stsb",
    "char_gpt_shakespeare",
    "fastestdet_coco",
    "superres_x3",
    "silero_vad_op18",
)
QUICK = ("tiny_dscnn_kws",)
SAMPLES = {"squeezenet_imagenet": 100, "mobilenetv2_imagenet": 100}  # of the evaluation set; of others all
ACTIVATIONS = {"uint8": 8, "uint4": 4}
NONE = 1e-9  # of the weights: a bound that no layer fits in, and that binds
HEADER = (
    "entry",
    "stage",
    "activation bits",
    "seeds",
    "metric",
    "better",
    "samples",
    "float score",
    "fixp4 score",
    "mixed score",
    "gain",
    "gain standard error",
    "fixp4 SQNR dB",
    "mixed SQNR dB",
    "SQNR gain dB",
    "bits a weight",
    "posit layers",
    "posit share of weights",
    "posit share of MACs",
    "MAC energy overhead %",
    "paper's overhead %",
)


def run(bench: Bench, seeds: int | None) -> Results:
    """Every zoo entry at both widths."""
    return finished(list(ptq_rows(bench, bench.names(ENTRIES, QUICK))))


def finished(rows: list[tuple[Cell, ...]]) -> Results:
    """Rows with their summary and chart."""
    title = "Mixed posit4/fixp4 (at most 10 % of the weights posit) against all-fixp4"
    made = Results("mixed_posit", title, HEADER, rows)
    made.notes += [
        "evaluation samples are all but for " + ", ".join(f"{k}: {v}" for k, v in SAMPLES.items()),
        "activation bits: inputs of the first and the last layer have 8; all layers that can run on integers do",
        "gain: of the score, positive where mixed is better; its standard error is that of paired samples (top-1 only)",
        "MAC energy: of posit4 and fixp4 MACs by `assignment.mac_energy`, against the same network in fixp4 alone",
        *summary(made),
    ]
    if missing := [e for e in ENTRIES if all(r[0] != e for r in rows)]:
        made.notes.append(f"not measured here: {', '.join(missing)}")
    for name in dict.fromkeys(r[0] for r in rows if not r[HEADER.index("bits a weight")]):
        made.notes.append(f"{name}: no layer is quantised, its weights lie in the branches of an If")
    _chart(made)
    return made


def ptq_rows(
    bench: Bench, entries: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> Iterator[tuple[Cell, ...]]:
    """Rows without retraining.

    Args:
        bench: with a zoo.
        entries: of the zoo.
        limit: evaluation samples; None: `SAMPLES`, or all (SQNR of entries without classes on 64).
        seed: of the probes that score layers.
    """
    for entry in entries:
        most = SAMPLES.get(entry) if limit is None else limit
        for activation, bits in ACTIVATIONS.items():
            network = Network(bench, entry, activation, seed=seed)
            fixed, mixed = network.assigned({"posit-fraction": NONE}), network.assigned()
            reference = network.float_figures(most)
            was = network.figures(fixed.proto, most)
            now = was if same_formats(fixed, mixed) else network.figures(mixed.proto, most)
            yield row(network, "ptq", bits, reference, was, now, mixed, limit=most)


def row(
    network: Network,
    stage: str,
    bits: int,
    reference: Figures,
    was: Figures,
    now: Figures,
    mixed: Assigned,
    *,
    limit: int | None,
    seeds: int = 1,
) -> tuple[Cell, ...]:
    """One row; `was` are the figures of all-fixp4, `now` those of the mixed network."""
    entry = network.zoo.entries[network.entry]
    sign = 1.0 if entry.get("higher_is_better", True) else -1.0
    error = None
    if was.right is not None and now.right is not None:
        error = standard_error(was.right, now.right)
    share = mixed.share
    whole = entry["fp32"]["n"]
    return (
        network.entry,
        stage,
        bits,
        seeds,
        entry["metric"],
        "higher" if sign > 0 else "lower",
        whole if limit is None else min(limit, whole),
        reference.score,
        was.score,
        now.score,
        sign * (now.score - was.score),
        error,
        was.sqnr_db,
        now.sqnr_db,
        now.sqnr_db - was.sqnr_db if math.isfinite(was.sqnr_db) else 0.0,
        mixed.bits,
        posit_layers(mixed),
        share.of_parameters,
        share.of_macs,
        100 * (share.energy_overhead or 0.0),
        100 * PAPER_OVERHEAD,
    )


def standard_error(was: Array, now: Array) -> float:
    """Of the difference of two accuracies on the same samples."""
    return float(math.sqrt(np.count_nonzero(was != now)) / len(was))


def posit_layers(assigned: Assigned) -> int:
    """How many layers are posits."""
    return sum(layer.weight.format.startswith("posit") for layer in assigned.graph.plan.layers.values())


def same_formats(one: Assigned, other: Assigned) -> bool:
    """Whether two assignments of a network are alike."""
    a, b = ({n: x.weight for n, x in g.graph.plan.layers.items()} for g in (one, other))
    return a == b


def summary(made: Results) -> Iterator[str]:
    """How often and how much, by stage and width."""
    at = {name: HEADER.index(name) for name in HEADER}
    for stage in dict.fromkeys(r[at["stage"]] for r in made.rows):
        for bits in ACTIVATIONS.values():
            rows = [r for r in made.rows if r[at["stage"]] == stage and r[at["activation bits"]] == bits]
            rows = [r for r in rows if r[at["bits a weight"]]]  # some layer is quantised
            if not rows:
                continue
            db = [float(r[at["SQNR gain dB"]] or 0) for r in rows]
            top1 = [r for r in rows if r[at["metric"]] == "top1"]
            clear = sum(
                abs(float(r[at["gain"]] or 0)) > 2 * float(r[at["gain standard error"]] or 0) for r in top1
            )
            points = [100 * float(r[at["gain"]] or 0) for r in top1]
            overhead = float(np.mean([float(r[at["MAC energy overhead %"]] or 0) for r in rows]))
            none = sum(r[at["posit layers"]] == 0 for r in rows)
            yield (
                f"{stage}, {bits}-bit activations: SQNR better on {sum(d > 0.005 for d in db)}, worse on "
                f"{sum(d < -0.005 for d in db)} of {len(rows)} entries (mean {np.mean(db):+.2f} dB); no posit layer in "
                f"{none}; top-1 mean gain {np.mean(points):+.2f} points over {len(top1)} entries, {clear} of them "
                f"beyond two standard errors; MAC energy {overhead:+.3f} % on average (paper: +1.5 points, "
                f"{100 * PAPER_OVERHEAD:+.2f} %)"
            )


def _chart(made: Results) -> None:
    at, order = HEADER.index("SQNR gain dB"), HEADER.index("activation bits")
    stage, bits_at = HEADER.index("stage"), HEADER.index("bits a weight")
    series = []
    for s in dict.fromkeys(r[stage] for r in made.rows):
        for bits in ACTIVATIONS.values():
            db = sorted(
                float(r[at] or 0) for r in made.rows if r[order] == bits and r[stage] == s and r[bits_at]
            )
            series.append(Series(f"{s}, W4A{bits}", list(range(1, len(db) + 1)), db))
    made.chart(series, x="zoo entries, sorted by gain", y="output SQNR, mixed less all-fixp4, dB")
