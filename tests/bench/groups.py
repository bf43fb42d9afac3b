"""Integer group scales against channel scales: how close the weights come."""

import numpy as np

import lpcompile
from tests.bench.bench_table import Bench, Table
from tests.bench.four_bit import FORMATS

ENTRIES = ("resnet20_cifar10", "mobilenetv2_imagenet", "squeezenet_imagenet", "char_gpt_shakespeare",
           "tiny_resnet8_cifar10", "tiny_dscnn_kws", "minilm_stsb")  # fmt: skip
SIZES = {"channel": 0, "group 32": 32}


def measure(bench: Bench) -> Table:
    """Mean over layers of the weight SQNR, nearest rounding, scale search by squared error, no data."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table("weight SQNR in dB, mean over layers (8-bit channel scales, 4-bit group scales)",
                 ("entry", *(f"{f} {g}" for f in FORMATS for g in ("ch", "g32"))))  # fmt: skip
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        row = [mean_sqnr_db(zoo.model(name), f, size) for f in FORMATS for size in SIZES.values()]
        made.rows.append((name, *(round(x, 2) for x in row)))
    means = np.mean([row[1:] for row in made.rows], axis=0)
    made.rows.append(("mean", *(round(float(x), 2) for x in means)))
    gains = ", ".join(f"{f} +{means[2 * i + 1] - means[2 * i]:.2f}" for i, f in enumerate(FORMATS))
    made.notes.append(f"gain of groups in dB: {gains}")
    return made


def mean_sqnr_db(model: object, fmt: str, group_size: int) -> float:
    """Of one network."""
    granularity = "group" if group_size else "channel"
    options = f"format={fmt},rule=mse,scale-format=ufloat8_e4m4,granularity={granularity}"
    passes = (
        "fold-constants,canonicalize,fold-batchnorm,quantize-activations,quantize-weights{" + options + "}"
    )
    report = lpcompile.compile(model, passes=passes, recipe="w4a8").report  # type: ignore[arg-type]
    rounding = next(p for p in report["passes"] if p["name"] == "quantize-weights")
    return float(np.mean([float(c["after"].split()[0]) for c in rounding["changes"]]))
