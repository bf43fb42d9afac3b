"""Elementwise work under each way to hold multipliers, beside what it costs in accuracy and takes of run time.

The recipe is `pikelpn` with another mode of `quantnorm`; "float" leaves multipliers as the target has them. Two
networks with norms that no convolution takes in are those of `models/`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import lpcompile
from lpcompile.quant.error import sqnr_db
from tests.bench.bench_table import Bench, scratch
from tests.bench.experiments.entry_figures import EntryFigures
from tests.bench.experiments.results import Cell, Results
from tests.support import Array

ENTRIES = ("resnet20_cifar10", "tiny_dscnn_kws", "mobilenetv2_imagenet")
DIGITS = ("digits_preactivation", "digits_densenet")
QUICK = ("digits_preactivation",)
SEPARABLE = ("tiny_dscnn_kws", "mobilenetv2_imagenet")  # also with 4-bit activations
MODES = {
    "float": "mode=fold",
    "dyadic-8": "mode=dyadic, bits=8",
    "po2": "mode=po2",
    "snap": "mode=snap",
    "snap-dyadic-3": "mode=snap-dyadic, bits=3",
}
NARROW_MODES = ("float", "snap", "snap-dyadic-3")
RECIPE = "mode=snap-dyadic, bits=3"  # as the recipe has it
PRODUCTS = ("Conv", "Gemm", "MatMul", "QLinearConv", "QGemm", "MatMulInteger", "QLinearMatMul", "MatMulNBits")
RUNS = 20
HEADER = ("network", "activations", "multipliers", "score", "score - float ones", "standard error", "SQNR dB",
          "share before", "share after", "comparisons after", "time before", "time after")  # fmt: skip
MODELS = Path(__file__).resolve().parents[3] / "models"


@dataclass(frozen=True)
class Measured:
    """What a model gives on evaluation samples: its score, and which samples are right where that is the score."""

    score: float
    sqnr_db: float
    right: Array | None


def run(bench: Bench, seeds: int | None) -> Results:
    """Every network under every mode."""
    del seeds
    made = Results(
        "norm_modes", "elementwise work, scores and times under each way to hold multipliers", HEADER
    )
    digits = QUICK if bench.quick else tuple(n for n in DIGITS if n in (bench.entries or DIGITS))
    for name in (*digits, *bench.names(ENTRIES, ())):
        for row in _rows(bench, name):
            made.rows.append(row)
            print(*row, sep=" | ", flush=True)
    made.notes += [
        "shares: of ACEv2, work other than products, without comparisons, which have a column of their own",
        "time: share of kernels in ONNX Runtime's profile that are no products, one thread, one sample",
        "standard error: of paired samples",
    ]
    return made


def _rows(bench: Bench, name: str) -> Iterator[tuple[Cell, ...]]:
    model, samples = _files(bench, name)
    whole = _time_share(onnx.load(model), samples)
    for activations in ("uint8", "uint4") if name in SEPARABLE else ("uint8",):
        base: Measured | None = None
        for mode in MODES if activations == "uint8" else NARROW_MODES:
            text = lpcompile.recipes.load_recipe("pikelpn").pipeline.replace(RECIPE, MODES[mode])
            made = lpcompile.compile(
                model, calibration=samples, recipe="pikelpn", passes=text, activation_format=activations
            )
            found = _measured(bench, name, made.model)
            base = base or found
            before, after = (made.report["cost"][when] for when in ("before", "after"))
            yield (name, activations, mode, found.score, found.score - base.score, _error(found, base),
                   found.sqnr_db, _share(before), _share(after), after.get("compare", 0.0) / sum(after.values()),
                   whole, _time_share(made.model, samples))  # fmt: skip


def _files(bench: Bench, name: str) -> tuple[Path, dict[str, Array]]:
    if name in DIGITS:
        with np.load(MODELS / f"{name}.calib.npz") as data:
            return MODELS / f"{name}.onnx", dict(data)
    assert bench.zoo is not None
    return bench.zoo.model(name), bench.zoo.samples(name)


def _measured(bench: Bench, name: str, proto: onnx.ModelProto) -> Measured:
    if name not in DIGITS:
        assert bench.zoo is not None
        found = EntryFigures(bench.zoo, name).figures(proto)
        return Measured(found.score, found.sqnr_db, found.right)
    with np.load(MODELS / f"{name}.eval.npz") as data:
        images, labels = data["image"], data["y"]
    ours, theirs = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for m in (proto.SerializeToString(), str(MODELS / f"{name}.onnx"))
    )
    right = ours.argmax(1) == labels
    return Measured(float(right.mean()), sqnr_db(theirs, ours), right)


def _share(costs: dict[str, float]) -> float:
    """Of work that is no product, comparisons left out."""
    counted = {k: v for k, v in costs.items() if k != "compare"}
    return 1 - sum(v for k, v in counted.items() if k in ("mac", "shift_mac")) / sum(counted.values())


def _error(found: Measured, base: Measured) -> float | None:
    if found.right is None or base.right is None:
        return None
    return float(np.sqrt((found.right != base.right).sum()) / len(found.right))


def _time_share(proto: onnx.ModelProto, samples: dict[str, Array]) -> float:
    """Of the time of all kernels, what others than products take; from ONNX Runtime's own profile."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(scratch() / "norm-modes")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {k: v[:1] for k, v in samples.items()}
    for _ in range(RUNS):
        session.run(None, feeds)
    path = Path(session.end_profiling())
    events: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    path.unlink()
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    products: float = sum(e["dur"] for e in kernels if e["args"]["op_name"] in PRODUCTS)
    every: float = sum(e["dur"] for e in kernels)
    return 1 - products / every
