"""Integer group scales against channel scales: how close the weights come."""

import math

import numpy as np

import lpcompile
from tests.bench.bench_table import Bench, Table
from tests.bench.four_bit import FORMATS

ENTRIES = ("resnet20_cifar10", "mobilenetv2_imagenet", "squeezenet_imagenet", "char_gpt_shakespeare",
           "tiny_resnet8_cifar10", "tiny_dscnn_kws", "minilm_stsb")  # fmt: skip
SIZES = {"channel": 0, "group 32": 32}


def measure(bench: Bench) -> Table:
    """Nearest rounding, scale search by squared error, no data."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table(
        "weight SQNR in dB, mean over weights (8-bit channel scales, 4-bit group scales)",
        ("entry", *(f"{f} {g}" for f in FORMATS for g in ("ch", "g32"))),
    )
    plain = []
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        found = [mean_sqnr_db(zoo.model(name), f, size) for f in FORMATS for size in SIZES.values()]
        made.rows.append((name, *(round(x, 2) for x, _ in found)))
        plain.append([x for _, x in found])
    means = np.mean([row[1:] for row in made.rows], axis=0)
    made.rows.append(("mean", *(round(float(x), 2) for x in means)))
    for what, m in (("", means), (", every layer counting the same", np.mean(plain, axis=0))):
        gains = ", ".join(f"{f} +{m[2 * i + 1] - m[2 * i]:.2f}" for i, f in enumerate(FORMATS))
        made.notes.append(f"gain of groups in dB{what}: {gains}")
    return made


def mean_sqnr_db(model: object, fmt: str, group_size: int) -> tuple[float, float]:
    """Of one network: mean over weights, and over layers; layers with fewer inputs than a group have none."""
    granularity = "group" if group_size else "channel"
    options = f"format={fmt},rule=mse,scale-format=ufloat8_e4m4,granularity={granularity}"
    passes = (
        "fold-constants,canonicalize,fold-batchnorm,quantize-activations,quantize-weights{" + options + "}"
    )
    report = lpcompile.compile(model, passes=passes, recipe="w4a8").report  # type: ignore[arg-type]
    rounding = next(p for p in report["passes"] if p["name"] == "quantize-weights")
    found = {c["node"]: float(c["after"].split()[0]) for c in rounding["changes"]}
    sizes = [math.prod(r["weight_shape"]) for r in report["layers"] if r["name"] in found]
    figures = [found[r["name"]] for r in report["layers"] if r["name"] in found]
    return float(np.average(figures, weights=sizes)), float(np.mean(figures))
