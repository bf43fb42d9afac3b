"""Methods of INT4 weights that are read as FP8, layer by layer: relative error of the outputs, FP8 inputs.

RTN through FP8, GPTQ and then the cast, DPQ, DPQ with group-aware reordering, and what `dual-precision` does. Errors
are tr(E H E^T) over tr(W H W^T), of moments of the samples that chose the codes and of samples that did not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.analysis.calibration import Calibration, Feeds
from lpcompile.formats.arrays import F32, Real
from lpcompile.passes.dual_precision import DualPrecision
from lpcompile.passes.float8_moments import gather_moments
from lpcompile.pipeline import Pipeline
from lpcompile.plan import Kernel
from lpcompile.prepared import Preparation
from lpcompile.progress import no_progress
from lpcompile.quant.dual_precision import Stages
from lpcompile.quant.dual_rounding import DualRounding, dual_rounded
from lpcompile.quant.rows import to_rows
from lpcompile.target import Options
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.entry_figures import THREADS
from tests.bench.experiments.prepared_entry import FOLDS
from tests.bench.experiments.results import Cell, Results

ENTRIES = ("tiny_resnet8_cifar10", "tiny_dscnn_kws", "char_gpt_shakespeare")
QUICK = ("tiny_resnet8_cifar10", "char_gpt_shakespeare")
SIZES = (32, 64, 128)
METHODS = {"GPTQ + cast": "gptq-cast", "DPQ": "dpq", "DPQ + GAR": "dpq-gar"}
RTN, OURS = "RTN through FP8", "levels"
NAMES = (RTN, *METHODS, OURS)
HEADER = ("entry", "group size", "layer", "inputs", *NAMES, *(f"{n}, other samples" for n in NAMES))


class Judging(Calibration):
    """Calls that all count."""

    @property
    def deciding(self) -> list[Feeds]:
        return list(self.calls)


def run(bench: Bench, _seeds: int | None) -> Results:
    """Every layer of every entry."""
    title = "relative output error of INT4 weights that are read as FP8, by method"
    made = Results("dual_precision", title, HEADER)
    for entry in bench.names(ENTRIES, QUICK):
        for size in SIZES[1:2] if bench.quick else SIZES:
            rows = list(layer_rows(bench, entry, size))
            made.rows += rows
            made.notes.append(summary(f"{entry}, groups of {size}", rows))
            print(made.notes[-1], flush=True)
        series = [Series(n, list(SIZES), [mean(made.rows, entry, s, n) for s in SIZES]) for n in NAMES]
        if not bench.quick:
            made.chart(series, x="inputs of a group", y=f"relative error, {entry}", suffix=entry)
    return made


def mean(rows: Sequence[tuple[Cell, ...]], entry: str, size: int, name: str) -> float:
    """Geometric mean over the layers of an entry, on the samples that chose the codes."""
    at = HEADER.index(name)
    return float(np.exp(np.mean([np.log(float(r[at] or 0)) for r in rows if r[:2] == (entry, size)])))


def layer_rows(bench: Bench, entry: str, size: int) -> Iterator[tuple[Cell, ...]]:
    """The errors of each layer."""
    assert bench.zoo is not None
    passes = f"{FOLDS}, dual-precision{{group-size={size}}}"
    prepared = Preparation("ort", Options(passes=passes, threads=THREADS), no_progress).of(
        bench.zoo.model(entry), bench.zoo.samples(entry)
    )
    graph, context = prepared.graph, prepared.context
    Pipeline(prepared.passes).run(graph, context)
    ours = next(p for p in prepared.passes if isinstance(p, DualPrecision)).how
    layers = [n for n in graph.layers() if graph.plan.layers[n.name].kernel is not Kernel.FLOAT]
    chosen = gather_moments(graph, context, layers)
    assert context.calibration is not None
    judging = Judging(context.calibration.judging)
    judged = gather_moments(graph, replace(context, calibration=judging), layers)
    for node in layers:
        weight = node.inputs[1]
        if node.name not in chosen or weight is None:
            continue
        rows = to_rows(node.op, weight.values)
        stages, gram = Stages.of(rows, size), chosen[node.name].matrix
        made = {RTN: stages.nearest_twice().dequantize()}
        for name, how in {**{k: DualRounding.of(v) for k, v in METHODS.items()}, OURS: ours}.items():
            made[name] = dual_rounded(stages, gram, how).dequantize()
        errors = [relative_error(rows, made[n], m) for m in (gram, judged[node.name].matrix) for n in NAMES]
        yield (entry, size, node.name, rows.shape[1], *errors)


def relative_error(rows: F32, found: F32, gram: Real) -> float:
    """Noise over signal at the outputs of a layer."""

    def power(w: F32) -> float:
        cut = w.reshape(len(gram), -1, w.shape[1]).astype(np.float64)
        return float(np.sum((cut @ gram) * cut))

    return power(rows - found) / power(rows)


def summary(of: str, rows: Sequence[tuple[Cell, ...]]) -> str:
    """Geometric means over layers, and how often each method is the best."""
    parts = []
    for at, where in ((4, "on the samples"), (4 + len(NAMES), "on others")):
        table = np.array([[float(v or 0) for v in r[at : at + len(NAMES)]] for r in rows])
        means: Mapping[str, float] = dict(zip(NAMES, np.exp(np.log(table).mean(axis=0)), strict=True))
        best = np.mean(table[:, -1] <= table.min(axis=1))
        shown = ", ".join(f"{n} {m:.5f}" for n, m in means.items())
        parts.append(f"{where}: {shown}; {OURS} best of {best:.0%} of {len(rows)} layers")
    return f"{of}: " + "; ".join(parts)
