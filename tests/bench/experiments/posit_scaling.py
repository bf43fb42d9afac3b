"""Scaled against unscaled posit4 on single layers of real networks, in every regime of the scale; fixp4 beside it.

W^ = s * P(code) / d per tensor, d in {1, 4, 8}: raw, sc,4 and sc,8. The regimes say what s may be:

=======  ============================================================================================
`one`    s = 1
`std`    s = standard deviation of the tensor: one normalisation for all layers
`l1`     s = 15/8 mean |w|, the entropy-preserving normalisation (notes 2.4 a)
`pow2`   s any power of two, so that d says nothing
`free`   s real: d says nothing
=======  ============================================================================================

fixp4 has three fraction bits and the same s; fixp4f as many fraction bits as suit the layer (posits choose among three
divisors, so this is the fair rival where s is given). Each figure is the SQNR of the layer
alone: of its weights, or of its output with E[x^2] of its inputs. [azizi2023; notes 2.5]
"""

from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np

from lpcompile.analysis.calibration import collect_statistics
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import moment_axes, second_moments
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.pipeline import Pipeline
from lpcompile.prepared import Preparation
from lpcompile.progress import no_progress
from lpcompile.quant import scales as rules
from lpcompile.quant.fit import layer_levels
from lpcompile.quant.rows import to_rows
from lpcompile.target import Options
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Cell, Results
from tests.bench.experiments.scale_regimes import best_divisor
from tests.support import Array

ENTRIES = (  # mobilenetv2 lies on an int8 grid
    "tiny_resnet8_cifar10",
    "tiny_dscnn_kws",
    "tiny_autoencoder_toycar",
    "resnet20_cifar10",
    "mnist_cnn",
    "char_gpt_shakespeare",
    "superres_x3",
    "fastestdet_coco",
    "squeezenet_imagenet",
    "silero_vad_op18",
    "minilm_stsb",
)
SAMPLES = 32
GIVEN = ("one", "std", "l1")
LIMITED: Mapping[str, str] = {"pow2": "power-of-two", "free": "free"}
POSITS = ("raw", "sc4", "sc8")
TRAINED = "widen-float16, fold-constants, canonicalize"
LEAST = 16  # weights of a layer
FIXED = ("fixp4", "fixp4f")
SHIFTS = range(-6, 9)  # of the binary point
COLUMNS = [f"{r} {f}" for r in GIVEN for f in (*POSITS, *FIXED)]
COLUMNS += [f"{r} {f}" for r in LIMITED for f in ("posit4", "fixp4")]


def run(bench: Bench, seeds: int | None) -> Results:
    """One row a layer, form of the weights, and figure; there is no randomness in it."""
    header = ("entry", "layer", "weights", "count", "std", "kurtosis", "sqnr of", *COLUMNS)
    made = Results("posit_scaling", "Scaled and unscaled posit4 by the regime of the scale: SQNR, dB", header)
    for entry in bench.names(ENTRIES, ENTRIES[:1]):
        made.rows += list(_rows(bench, entry))
    for figure in ("weights", "output"):
        for form in ("trained", "folded"):
            made.notes += _summary(made, form, figure)
    made.notes += list(_verdict(made))
    made.notes += [
        "weights: 'trained' as the file has them, 'folded' with batch norms folded, only where that changes them",
        "scales are per tensor; dB of a network's layers say nothing about its accuracy",
    ]
    _charts(made)
    return made


def _rows(bench: Bench, entry: str) -> Iterator[tuple[Cell, ...]]:
    trained = {name: w for name, w, _ in _layers(bench, entry, TRAINED)}
    for form, passes in (("trained", TRAINED), ("folded", f"{TRAINED}, fold-batchnorm")):
        for name, w, moments in _layers(bench, entry, passes):
            if form == "folded" and name in trained and np.array_equal(trained[name], w):
                continue
            flat = w.astype(np.float64).ravel()
            std = float(flat.std())
            kurtosis = float(((flat - flat.mean()) ** 4).mean() / std**4)
            for figure, importance in (("weights", None), ("output", moments)):
                if figure == "output" and moments is None:
                    continue
                yield (
                    entry,
                    name,
                    form,
                    flat.size,
                    std,
                    kurtosis,
                    figure,
                    *_figures(w, std, importance).values(),
                )


def _layers(bench: Bench, entry: str, passes: str) -> Iterator[tuple[str, Array, Array | None]]:
    """Name, (C_out, K) weights, and E[x^2] where it is known."""
    assert bench.zoo is not None
    prepared = Preparation("ort", Options(passes=passes), no_progress).of(
        bench.zoo.model(entry), bench.zoo.samples(entry, limit=SAMPLES)
    )
    graph, context = prepared.graph, prepared.context
    Pipeline(prepared.passes).run(graph, context)
    layers = graph.layers()
    axes = moment_axes(layers)
    assert context.observe is not None
    assert context.calibration is not None
    statistics: dict[str, TensorStatistics] = {}
    if axes:
        statistics = collect_statistics(
            context.observe(graph, list(axes)), context.calibration.deciding, list(axes), axes
        )
    for node in layers:
        weight = node.inputs[1]
        assert weight is not None
        rows = np.ascontiguousarray(to_rows(node.op, weight.values), np.float32)
        if rows.size >= LEAST and rows.std() > 0:
            yield node.name, rows, second_moments(node, statistics)


def _figures(w: Array, std: float, importance: Array | None) -> dict[str, float]:
    """Column -> dB."""
    h = np.ones(w.shape[1]) if importance is None else importance.astype(np.float64)
    signal = float((np.square(w, dtype=np.float64) * h).sum())
    posit, fixp = resolve("posit4"), resolve("fixp4")
    given = {"one": 1.0, "std": std, "l1": float(np.abs(w).mean(dtype=np.float64)) * 15 / 8}
    errors = {}
    for regime, s in given.items():
        for label, d in zip(POSITS, rules.DIVISORS, strict=True):
            errors[f"{regime} {label}"] = _error(w, posit, s / d, importance)
        shifted = {k: _error(w, fixp, s / 2.0**k, importance) for k in SHIFTS}
        errors[f"{regime} fixp4"], errors[f"{regime} fixp4f"] = shifted[0], min(shifted.values())
    for regime, name in LIMITED.items():
        for fmt in (posit, fixp):
            found = best_divisor(w, fmt, name, importance=importance)  # type: ignore[arg-type]
            errors[f"{regime} {fmt.name}"] = found.error
    return {c: 10 * float(np.log10(signal / max(errors[c], 1e-30))) if signal else 0.0 for c in COLUMNS}


def _error(w: Array, fmt: NumberFormat, scale: float, importance: Array | None) -> float:
    tiled = None if importance is None else np.tile(importance.astype(np.float32), len(w))
    unit = np.asarray([scale * fmt.image_scale])
    return float(rules.squared_error(w.reshape(1, -1), unit, layer_levels(fmt), tiled)[0])


def gains(made: Results, form: str, figure: str) -> dict[str, list[float]]:
    """By question, of each layer, in dB: what the best posit gains on fixed point, or the best scaled posit on raw."""
    at = {c: made.header.index(c) for c in COLUMNS}
    found: dict[str, list[float]] = {}
    for row in made.rows:
        if row[2] != form or row[6] != figure:
            continue
        value = {c: float(row[i] or 0.0) for c, i in at.items()}
        for r in GIVEN:
            raw, *scaled = (value[f"{r} {p}"] for p in POSITS)
            for f in FIXED:
                found.setdefault(f"{r}: posit - {f}", []).append(max(raw, *scaled) - value[f"{r} {f}"])
            found.setdefault(f"{r}: scaled - raw", []).append(max(scaled) - raw)
        for r in LIMITED:
            found.setdefault(f"{r}: posit - fixp4f", []).append(value[f"{r} posit4"] - value[f"{r} fixp4"])
    return found


def _summary(made: Results, form: str, figure: str) -> Iterator[str]:
    for what, values in gains(made, form, figure).items():
        better = sum(v > 0 for v in values)
        yield f"{figure}, {form}, {what}: better on {better} of {len(values)} layers, median {median(values):+.2f} dB"


def _verdict(made: Results) -> Iterator[str]:
    """Regimes in which the claims hold for most layers, by output SQNR of the weights as trained."""
    found = gains(made, "trained", "output")
    for what, claim in (
        ("scaled - raw", "scaled posits beat raw ones"),
        ("posit - fixp4", "posits beat fixp4 of three fraction bits"),
        ("posit - fixp4f", "posits beat fixed point of any fraction bits"),
    ):
        for least in (0, 1):
            held = [k.split(":")[0] for k, v in found.items() if k.endswith(what) and median(v) > least]
            yield f"{claim} by more than {least} dB in the median: regimes {', '.join(held) or 'none'}"


def _charts(made: Results) -> None:
    found = gains(made, "trained", "output")
    posit = [f"{r}: posit - fixp4f" for r in (*GIVEN, *LIMITED)]
    for suffix, wanted, title in (
        ("", posit, "Best posit4 less fixed point: SQNR of a layer's output by regime of the scale"),
        ("scaled", [f"{r}: scaled - raw" for r in GIVEN], "Best of sc,4 and sc,8 less raw posit4"),
    ):
        series = [
            Series(r, list(np.linspace(0, 100, len(found[r]))), np.clip(sorted(found[r]), -20, 20).tolist())
            for r in wanted
        ]
        made.chart(series, x="share of layers, %, sorted", y="dB, cut at 20", suffix=suffix, title=title)
