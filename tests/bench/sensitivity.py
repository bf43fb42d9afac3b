"""Predicted against measured sensitivity: how alike they order layers, and what each costs.

MiniLM ends in no softmax: its KL is that of softmaxes over the last axis of its output, in both columns.
"""

import time
from collections.abc import Mapping
from typing import Any

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
    """int4 per channel, nearest; `time` is that of fisher as a part of measuring, weights only."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table(
        "Spearman against measured KL, one at a time (int4 weights per channel; activations)",
        (
            "entry",
            "samples",
            "fisher",
            "absmax scales",
            *OTHERS,
            *ACTIVATIONS,
            "probe, noise",
            "time",
            "analyze s",
        ),
    )
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        count = 32 if bench.quick else SAMPLES.get(name, DEFAULT_SAMPLES)
        data, model = zoo.samples(name, limit=count), zoo.model(name)
        start = time.perf_counter()
        analyze_model(model, data, Question(loss="kl"))
        whole = time.perf_counter() - start
        methods = ("fisher", "measured", *OTHERS)
        found = analyze_model(model, data, Question(methods, loss="kl"))
        bytewise = analyze_model(model, data, Question(methods[:2], loss="kl", activations="uint8"))
        absmax = analyze_model(
            model, data, Question(methods[:2], loss="kl", rule="absmax", activations="uint4")
        )
        probes = analyze_model(model, data, Question(loss="probe"))
        made.rows.append(
            (
                name,
                found["samples"],
                alike(found, "fisher"),
                alike(absmax, "fisher"),
                *(alike(found, m) for m in OTHERS),
                alike(bytewise, "fisher", key="activations"),
                alike(absmax, "fisher", key="activations"),
                alike(probes, "fisher", found, "measured noise"),
                round(found["seconds"]["fisher"] / found["seconds"]["measured"], 3),
                round(whole, 1),
            )
        )
    made.notes.append(
        "asked for: fisher >= 0.95 and activations >= 0.90 on the first three, time <= 1/3 of measuring"
    )
    return made


def alike(
    document: Mapping[str, Any],
    predicted: str,
    against: Mapping[str, Any] | None = None,
    measured: str = "measured kl",
    *,
    key: str = "layers",
) -> float:
    """Spearman of a column of a document and one of the same or another."""
    other = {r["name"]: r["scores"][measured] for r in (against or document)[key]}
    pairs = [(r["scores"][predicted], other[r["name"]]) for r in document[key]]
    a, b = np.array(pairs).T
    return round(spearman(a, b), 3)
