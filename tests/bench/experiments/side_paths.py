"""Closed forms of side paths against each other: output SQNR of each layer on the calibration data, at equal rank.

One main path for the forms that repair its nearest codes (fixp4, groups of 32); GPTQ without and with a path beside it.
Factors are not rounded but in the last column, which is what `insert-lora` makes: 8 bits, merged, codes settled.
"""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.formats.base import resolve
from lpcompile.ir.node import Node
from lpcompile.passes.side_paths import ALTERNATIONS, damped_matrix, least_beside, mac_ratio, with_side_path
from lpcompile.plan import WeightPlan
from lpcompile.quant.codebook_search import Fitting
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.low_rank import low_rank, weighted_loss
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from tests.bench.bench_table import Bench
from tests.bench.experiments.prepared_entry import FOLDS, PreparedEntry
from tests.bench.experiments.results import Cell, Results

ENTRIES = ("tiny_resnet8_cifar10", "char_gpt_shakespeare")
QUICK = ("tiny_resnet8_cifar10",)
RANK = 8
FORMS = ("nearest", "svd", "lqer", "qera", "loftq", "gptq", "gptq + qera", "lowrank-first", "as compiled")
HEADER = (
    "entry",
    "layer",
    "outputs",
    "inputs",
    "share of MACs",
    *(f"{f} dB" for f in FORMS),
    "closed form ms",
)
HEAD = f"{FOLDS}, quantize-activations"
ROUND = "quantize-weights{format=fixp4, granularity=group, rounding=gptq, sweeps=0}"


def run(bench: Bench, seeds: int | None) -> Results:
    """Every layer that has one Gram matrix."""
    assert bench.zoo is not None
    made = Results(
        "side_paths", f"closed forms of rank {RANK}: output SQNR of each layer", HEADER, seeds=(0,)
    )
    for entry in bench.names(ENTRIES, QUICK):
        network = PreparedEntry(bench.zoo, entry, HEAD, ROUND, bench.zoo.samples(entry))
        metrics = network.metrics()
        rows = [
            (entry, *layer_row(node, metrics[node.name]))
            for node in network.graph.layers()
            if node.name in metrics and len(metrics[node.name].matrix) == 1
        ]
        made.rows += rows
        made.notes += list(summary(entry, rows))
    made.notes.append("calibration data; noise of rounded inputs left out; processor time of qera alone")
    return made


def layer_row(node: Node, metric: InputMetric) -> tuple[Cell, ...]:
    """One layer by all forms."""
    weight = node.inputs[1]
    assert weight is not None
    w, h, damped = to_rows(node.op, weight.values), metric.matrix[0].astype(np.float64), damped_matrix(metric)
    nearest = _fitted(metric, w)
    e = w - nearest.dequantize()
    start = time.thread_time()
    full = low_rank(e, RANK, h)
    seconds = time.thread_time() - start
    gptq = _rounded(metric, w)
    of_gptq = w - gptq.dequantize()
    plan = WeightPlan("fixp4", "group32", rank=RANK, side_path="lowrank-first")
    again = partial(_rounded, metric, least=least_beside(w, None))
    compiled, _ = with_side_path(w, gptq, plan, metric, again)
    errors = (
        e,
        _less(e, low_rank(e, RANK)),
        _less(e, low_rank(e, RANK, np.diagonal(h).copy())),
        _less(e, full),
        _alternated(metric, w),
        of_gptq,
        _less(of_gptq, low_rank(of_gptq, RANK, damped)),
        _first(metric, w, damped),
        w - compiled.dequantize(),
    )
    signal = weighted_loss(w, h)
    figures = [10 * np.log10(signal / max(weighted_loss(x, h), 1e-30)) for x in errors]
    return (node.name, *w.shape, mac_ratio(RANK, *w.shape), *map(float, figures), 1000 * seconds)


def summary(entry: str, rows: list[tuple[Cell, ...]]) -> Iterator[str]:
    """Means over layers, and where the full matrix is best among repairs of the same codes."""
    first = HEADER.index("nearest dB")
    figures = np.array([[float(c or 0) for c in r[first : first + len(FORMS)]] for r in rows])
    means = ", ".join(f"{f} {m:.1f}" for f, m in zip(FORMS, figures.mean(axis=0), strict=True))
    best = int((figures[:, 3] >= figures[:, 1:3].max(axis=1)).sum())
    seconds = sum(float(r[-1] or 0) for r in rows) / 1000
    yield f"{entry}: means {means}; qera best or equal of svd, lqer, qera in {best} of {len(rows)}; {seconds:.2f} s"


def _less(e: Real, factors: tuple[F64, F64]) -> F64:
    b, a = factors
    return np.asarray(e - b @ a)


def _fitted(metric: InputMetric, w: Real, least: F32 | None = None) -> QuantizedTensor:
    fitting = Fitting("group", 32, "output-mse", "ufloat8_e4m4", metric.importance, least)
    return fitting.fit(np.asarray(w, np.float32), resolve("fixp4"))


def _rounded(metric: InputMetric, w: Real, least: F32 | None = None) -> QuantizedTensor:
    return metric.rounded(np.asarray(w, np.float32), _fitted(metric, w, least), min_scale=least, rounds=0)


def _alternated(metric: InputMetric, w: Real) -> F64:
    codes = _fitted(metric, w).dequantize()
    for _ in range(ALTERNATIONS):
        b, a = low_rank(w - codes, RANK)
        codes = _fitted(metric, w - b @ a).dequantize()
    return _less(w - codes, low_rank(w - codes, RANK))


def _first(metric: InputMetric, w: Real, damped: F64) -> F64:
    b, a = low_rank(w, RANK, damped)
    codes = _rounded(metric, w - b @ a).dequantize()
    return _less(w - codes, low_rank(w - codes, RANK, damped))
