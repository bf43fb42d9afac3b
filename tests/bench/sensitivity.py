"""Predicted against measured sensitivity: how alike they order layers, and what each costs.

MiniLM ends in no softmax: its KL is that of softmaxes over the last axis of its output, in both columns.
"""

import time

import numpy as np

from lpcompile.analysis.rank_correlation import spearman
from lpcompile.layer_analysis import Question, analyze_model
from tests.bench.bench_table import Bench, Table

ENTRIES = (
    "resnet20_cifar10",
    "mobilenetv2_imagenet",
    "minilm_stsb",
    "tiny_resnet8_cifar10",
    "tiny_dscnn_kws",
)
SAMPLES = {"resnet20_cifar10": 200, "tiny_resnet8_cifar10": 200, "tiny_dscnn_kws": 160}
DEFAULT_SAMPLES = 64
OTHERS = ("gradient", "fisher-diagonal", "hessian", "propagated")
ACTIVATIONS = ("uint8", "uint4")


def measure(bench: Bench) -> Table:
    """int4 per channel, nearest, one layer at a time; times are of one process, one after the other."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table(
        "Spearman against measured KL, one at a time (int4 weights per channel; activations)",
        ("entry", "samples", "fisher", "absmax scales", *OTHERS, *ACTIVATIONS, "against noise", "time / measured",
         "fisher s", "analyze s"),
    )  # fmt: skip
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        count = 32 if bench.quick else SAMPLES.get(name, DEFAULT_SAMPLES)
        data, model = zoo.samples(name, limit=count), zoo.model(name)
        start = time.perf_counter()
        analyze_model(model, data, Question(loss="kl"))
        whole = time.perf_counter() - start
        found = analyze_model(model, data, Question(("fisher", "measured", *OTHERS), loss="kl"))
        absmax = analyze_model(model, data, Question(("fisher", "measured"), loss="kl", rule="absmax"))
        noise = analyze_model(model, data, Question(("fisher", "measured"), loss="probe"))
        activations = [
            analyze_model(model, data, Question(("fisher", "measured"), loss="kl", activations=fmt))
            for fmt in ACTIVATIONS
        ]
        made.rows.append(
            (
                name,
                found["samples"],
                alike(found, "fisher"),
                alike(absmax, "fisher"),
                *(alike(found, m) for m in OTHERS),
                *(alike(a, "fisher", key="activations") for a in activations),
                alike(noise, "fisher", "measured noise"),
                round(found["seconds"]["fisher"] / found["seconds"]["measured"], 3),
                round(found["seconds"]["fisher"], 2),
                round(whole, 1),
            )
        )
    made.notes.append(
        "asked for: fisher >= 0.95 and activations >= 0.90 on the first three, time <= 1/3 of measuring"
    )
    return made


def alike(
    document: dict[str, object], predicted: str, measured: str = "measured kl", *, key: str = "layers"
) -> float:
    """Spearman of two columns of a document."""
    rows = document[key]
    assert isinstance(rows, list)
    a, b = (np.array([r["scores"][c] for r in rows]) for c in (predicted, measured))
    return round(spearman(a, b), 3)
